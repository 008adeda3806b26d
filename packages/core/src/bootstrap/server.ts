import { randomBytes } from 'node:crypto'
import * as v from 'valibot'
import { type Log } from '@kvx/contract'
import { ControlServer, type Connection } from '../control/index.ts'
import {
  bootstrapVersion,
  requestSchema,
  packInstance,
  type BootstrapRequest,
  type PackedReply,
} from './messages.ts'
import type { Sample } from '../protocol/keys.ts'
import { checkServer } from './arguments.ts'
import { Published } from './published.ts'
import { RankTable } from './table.ts'
import { Waits } from './waits.ts'

/** Where it listens, and for whom. */
export interface BootstrapServerOptions {
  /** Address of this machine, as peers reach it. */
  host: string
  /** 0: a free one is chosen. */
  port: number
  /** The secret of the deployment, 16 bytes or more. */
  token: string
  /** Told of strangers and of what is refused. */
  log: Log
}

/** Where the ranks of a prefill instance register, and decode ranks watch them. */
export class BootstrapServer implements AsyncDisposable {
  /** On which it listens. */
  readonly host: string
  /** On which it listens, also where port 0 was asked for. */
  readonly port: number
  /** `tcp://host:port` */
  readonly address: string
  readonly #server: ControlServer
  readonly #table: RankTable
  readonly #waits: Waits

  private constructor(server: ControlServer, table: RankTable, waits: Waits) {
    this.#server = server
    this.#table = table
    this.#waits = waits
    this.host = server.host
    this.port = server.port
    this.address = server.endpoint
  }

  /** @throws KvxError `ERR_KVX_ADDRESS_UNAVAILABLE`, `ERR_KVX_INVALID_OPTION` */
  static async open(options: BootstrapServerOptions): Promise<BootstrapServer> {
    checkServer(options)
    const table = new RankTable(randomBytes(16).toString('hex'), () => {
      waits.look()
    })
    const waits = new Waits(table)
    const published = new Published(() => table.latest())
    const server = await ControlServer.bind({
      ...options,
      onMessage: (connection, message) => {
        const parsed = v.safeParse(requestSchema, message)
        if (parsed.success) {
          serve({ table, waits, published }, connection, parsed.output)
        } else {
          const text = `The request does not fit: ${v.summarize(parsed.issues)}`
          reply(connection, malformed(text))
        }
      },
      onMalformed: (connection, error) => {
        reply(connection, malformed(error.message))
      },
      onClose: (connection) => {
        waits.drop(connection)
        published.drop(connection)
      },
    })
    return new BootstrapServer(server, table, waits)
  }

  /** As `close`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Stops at once and frees the port. Idempotent. */
  close(): Promise<void> {
    this.#waits.clear()
    this.#table.clear()
    return this.#server.close()
  }
}

type Reply = PackedReply extends infer R ? (R extends unknown ? Omit<R, 'v'> : never) : never

function serve(
  { table, waits, published }: { table: RankTable; waits: Waits; published: Published },
  connection: Connection,
  request: BootstrapRequest,
): void {
  switch (request.kind) {
    case 'register':
    case 'renew': {
      const refusal = table.put(request.record, request.leaseMs, request.kind)
      reply(connection, refusal ?? { kind: 'registered' })
      return
    }
    case 'deregister':
      table.remove(request.record)
      published.drop(connection)
      reply(connection, { kind: 'deregistered' })
      return
    case 'read':
      waits.ask(request, {
        connection,
        answer: (found) => {
          reply(connection, { kind: 'instance', ...(found && { found: packInstance(found) }) })
        },
      })
      return
    case 'publish': {
      const { instance, rank } = request.record
      if (published.publish(instance, rank.dp, samplesOf(request), connection)) return
      const text = 'The bootstrap service knows of too many requests who computes them.'
      reply(connection, { kind: 'refused', reason: 'full', text })
      return
    }
    case 'withdraw':
      published.withdraw(request.record.instance, samplesOf(request), connection)
      return
    case 'ask':
      for (const sample of samplesOf(request)) {
        published.ask(connection, {
          instance: request.instance,
          sample,
          answer: ({ room, index }, dp) => {
            reply(connection, { kind: 'published', found: [room, index, dp] })
          },
        })
      }
      return
    case 'unask':
      published.unask(connection, samplesOf(request))
  }
}

function samplesOf({ samples }: { samples: [bigint, number][] }): Sample[] {
  return samples.map(([room, index]) => ({ room, index }))
}

function reply(connection: Connection, message: Reply): void {
  connection.send({ v: bootstrapVersion, ...message })
}

function malformed(text: string): Reply {
  return { kind: 'refused', reason: 'malformed', text: text.slice(0, 1_024) }
}
