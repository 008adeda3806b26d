import { randomBytes } from 'node:crypto'
import * as v from 'valibot'
import { type Log } from '../backend/contract.ts'
import { ControlServer, type Connection, type Message } from '../control/index.ts'
import {
  bootstrapVersion,
  requestSchema,
  type BootstrapReply,
  type BootstrapRequest,
} from './messages.ts'
import { RankTable } from './table.ts'

export interface BootstrapServerOptions {
  host: string
  /** 0: a free one is chosen. */
  port: number
  token: string
  log: Log
}

/** Where the ranks of a prefill instance register and decode ranks look them up. */
export class BootstrapServer {
  readonly host: string
  readonly port: number
  /** `tcp://host:port` */
  readonly address: string
  readonly #server: ControlServer
  readonly #table: RankTable

  private constructor(server: ControlServer, table: RankTable) {
    this.#server = server
    this.#table = table
    this.host = server.host
    this.port = server.port
    this.address = server.endpoint
  }

  /** @throws KvxError `ERR_KVX_ADDRESS_UNAVAILABLE`, `ERR_KVX_INVALID_OPTION` */
  static async open(options: BootstrapServerOptions): Promise<BootstrapServer> {
    const table = new RankTable(randomBytes(16).toString('hex'))
    const server = await ControlServer.bind({
      ...options,
      onMessage: (connection, message) => {
        reply(connection, answer(table, message))
      },
      onMalformed: (connection, error) => {
        reply(connection, { kind: 'refused', reason: 'malformed', text: error.message })
      },
    })
    return new BootstrapServer(server, table)
  }

  /** Stops at once and frees the port. Idempotent. */
  close(): Promise<void> {
    this.#table.clear()
    return this.#server.close()
  }
}

type Reply = BootstrapReply extends infer R ? (R extends unknown ? Omit<R, 'v'> : never) : never

function reply(connection: Connection, message: Reply): void {
  connection.send({ v: bootstrapVersion, ...message })
}

function answer(table: RankTable, message: Message): Reply {
  const parsed = v.safeParse(requestSchema, message)
  if (!parsed.success) {
    const text = `The request does not fit: ${v.summarize(parsed.issues)}`.slice(0, 1_024)
    return { kind: 'refused', reason: 'malformed', text }
  }
  return serve(table, parsed.output)
}

function serve(table: RankTable, request: BootstrapRequest): Reply {
  switch (request.kind) {
    case 'register':
    case 'renew':
      return table.put(request.record, request.leaseMs, request.kind) ?? { kind: 'registered' }
    case 'deregister':
      table.remove(request.record)
      return { kind: 'deregistered' }
    case 'read':
      return { kind: 'instance', found: table.read(request.instance) }
  }
}
