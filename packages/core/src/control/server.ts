import { lookup } from 'node:dns/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { type Log } from '@kvx/contract'
import { isKvxError, KvxError, toKvxError } from '@kvx/contract'
import { decodeFrame, encodeMessage, type Message } from './codec.ts'
import { formatEndpoint } from './endpoint.ts'
import { BackDoor, Gate, maxStrangers } from './gate.ts'
import { deploymentKeys } from './keys.ts'
import { Outbox } from './outbox.ts'
import { baseUnsentBytes, defaultLivenessMs, probeFrame, socketOptions } from './socket.ts'
import { admitOnly } from './zap.ts'
import { Context, Router } from './zeromq.ts'

/** One authenticated client. A client that reconnects is another connection. */
export interface Connection {
  /** Unique among the connections of its server. */
  readonly id: string
  readonly closed: boolean
  /**
   * Queues a message and returns at once. When the connection is gone, or ends because the client does not read
   * and too much waits for it, the message is lost and `onClose` is called.
   * @throws KvxError `ERR_KVX_OVER_LIMIT` when the message is too large
   */
  send(message: Message): void
}

export interface ControlServerOptions {
  /** A name or address of this machine; `0.0.0.0` and `::` for all. */
  host: string
  /** 0: a free one is chosen. */
  port: number
  token: string
  onMessage: (connection: Connection, message: Message) => void
  /** Called once for every connection on which something arrived, except when the server closes. */
  onClose?: (connection: Connection) => void
  /** What arrived is no message; it has no other effect. */
  onMalformed?: (connection: Connection, error: KvxError) => void
  log: Log
  livenessMs?: number
  /** Bytes that may wait for a client which does not read them. One more ends its connection. */
  maxUnsentBytes?: number
}

export class ControlServer {
  readonly host: string
  readonly port: number
  /** `tcp://host:port`, with brackets around an IPv6 address. */
  readonly endpoint: string
  readonly #gate: Gate
  readonly #backDoor: BackDoor
  readonly #socket: Router
  readonly #released: Promise<void>
  readonly #zap: { close(): void }
  readonly #options: ControlServerOptions
  readonly #connections = new Map<string, RouterConnection>()
  #sweep: NodeJS.Timeout | undefined
  #lastDisconnect = 0
  #closing: Promise<void> | undefined

  private constructor(
    parts: { gate: Gate; backDoor: BackDoor; socket: Router; zap: { close(): void } },
    options: ControlServerOptions,
  ) {
    this.#gate = parts.gate
    this.#backDoor = parts.backDoor
    this.#socket = parts.socket
    this.#zap = parts.zap
    this.#options = options
    this.host = this.#gate.host
    this.port = this.#gate.port
    this.endpoint = formatEndpoint(this.host, this.port)
    this.#released = this.#watch()
    void this.#receive()
  }

  /**
   * Listens. Only clients that hold the same token get a message through.
   * @throws KvxError `ERR_KVX_ADDRESS_UNAVAILABLE`, `ERR_KVX_INVALID_OPTION`
   */
  static async bind(options: ControlServerOptions): Promise<ControlServer> {
    const keys = deploymentKeys(options.token)
    const address = await resolveHost(options.host, options.port)
    const livenessMs = options.livenessMs ?? defaultLivenessMs
    /** Closed again, last first, when a later step fails: a socket left open keeps the process alive. */
    const opened: { close(): unknown }[] = []
    const keep = <Part extends { close(): unknown }>(part: Part): Part => {
      opened.push(part)
      return part
    }
    try {
      const backDoor = keep(new BackDoor())
      const context = new Context()
      const zap = keep(admitOnly(context, keys.client.publicKey))
      const socket = keep(
        new Router({
          ...socketOptions(livenessMs),
          context,
          mandatory: true,
          // None: the gate takes all, and counts it.
          sendHighWaterMark: 0,
          backlog: maxStrangers,
          curveServer: true,
          curveSecretKey: keys.server.secretKey,
          zapDomain: 'kvx',
        }),
      )
      // Made when it is first asked for, which needs two more sockets.
      keep(socket.events)
      socket.bindSync(backDoor.endpoint)
      backDoor.open()
      const gate = await Gate.open({
        host: address,
        port: options.port,
        backDoor,
        handshakeMs: livenessMs,
        maxUnsentBytes: options.maxUnsentBytes ?? baseUnsentBytes,
      })
      return new ControlServer({ gate, backDoor, socket, zap }, options)
    } catch (cause) {
      for (const part of opened.reverse()) part.close()
      throw unavailable(options, cause)
    }
  }

  /** Connections on which something arrived and that have not ended. */
  get connections(): number {
    return this.#connections.size
  }

  /** Stops at once and frees the port. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    clearTimeout(this.#sweep)
    for (const connection of this.#connections.values()) connection.closed = true
    this.#connections.clear()
    await this.#gate.close()
    this.#socket.close()
    // libzmq ends in its own thread and says so in an event.
    await Promise.race([this.#released, delay(1_000, undefined, { ref: false })])
    this.#zap.close()
    this.#backDoor.close()
  }

  async #receive(): Promise<void> {
    for await (const frames of this.#socket) {
      if (this.#closing !== undefined) break
      const [routingId, frame] = frames
      if (routingId === undefined) continue
      const connection = this.#connectionOf(routingId)
      if (!connection.closed) this.#deliver(connection, frames.length === 2 ? frame : undefined)
    }
  }

  /** @param frame undefined: there was none, or several */
  #deliver(connection: RouterConnection, frame: Buffer | undefined): void {
    try {
      if (frame === undefined) {
        throw new KvxError(
          'ERR_KVX_PROTOCOL',
          'A malformed message arrived: it has several frames.',
        )
      }
      for (const message of decodeFrame(frame)) {
        // By the handler of the message before it.
        if (connection.closed) return
        this.#call(() => {
          this.#options.onMessage(connection, message)
        })
      }
    } catch (error) {
      const reason = toKvxError(error)
      this.#options.log.warn(
        { connection: connection.id, error: reason.message },
        'malformed message',
      )
      this.#call(() => this.#options.onMalformed?.(connection, reason))
    }
  }

  #connectionOf(routingId: Buffer): RouterConnection {
    const id = routingId.toString('hex')
    let connection = this.#connections.get(id)
    if (connection === undefined) {
      connection = new RouterConnection(
        id,
        (frame) => this.#send(routingId, frame),
        (ended) => {
          this.#call(() => this.#options.onClose?.(ended))
        },
      )
      this.#connections.set(id, connection)
    }
    return connection
  }

  #send(routingId: Buffer, frame: Uint8Array): Promise<void> {
    // Asking whether it is writable makes libzmq take note of ended connections first.
    if (!this.#socket.writable) return Promise.reject(new Error('The socket is closed.'))
    return this.#socket.send([routingId, frame])
  }

  async #watch(): Promise<void> {
    for await (const event of this.#socket.events) {
      if (event.type === 'disconnect') {
        this.#lastDisconnect = Date.now()
        this.#sweepAfter(20)
      } else if (event.type.startsWith('handshake:error')) {
        this.#options.log.debug({ event: event.type }, 'a client failed to authenticate')
      } else if (event.type.startsWith('close') && this.#closing !== undefined) {
        // Also 'close:error': the file of the back door was removed before.
        return
      }
    }
  }

  /**
   * libzmq tells that a connection ended, but not which one: a probe of each tells. It may tell a
   * moment before its routing table knows, so probing goes on for a second.
   */
  #sweepAfter(ms: number): void {
    this.#sweep ??= setTimeout(() => {
      void this.#probeAll().then(() => {
        this.#sweep = undefined
        if (Date.now() - this.#lastDisconnect < 1_000) this.#sweepAfter(250)
      })
    }, ms).unref()
  }

  async #probeAll(): Promise<void> {
    for (const connection of [...this.#connections.values()]) {
      if (this.#closing !== undefined) return
      if (!(await connection.exists())) {
        this.#connections.delete(connection.id)
        connection.lost()
      }
    }
  }

  /** A defect in a handler must not end the loop that serves all connections. */
  #call(handler: () => void): void {
    try {
      handler()
    } catch (error) {
      this.#options.log.error({ error }, 'a control message handler failed')
    }
  }
}

class RouterConnection implements Connection {
  readonly id: string
  closed = false
  readonly #send: (frame: Uint8Array) => Promise<void>
  readonly #onClose: (connection: RouterConnection) => void
  readonly #outbox: Outbox

  constructor(
    id: string,
    send: (frame: Uint8Array) => Promise<void>,
    onClose: (connection: RouterConnection) => void,
  ) {
    this.id = id
    this.#send = send
    this.#onClose = onClose
    this.#outbox = new Outbox(send, () => {
      this.lost()
    })
  }

  send(message: Message): void {
    const encoded = encodeMessage(message)
    if (!this.closed) this.#outbox.push(encoded)
  }

  lost(): void {
    if (this.closed) return
    this.closed = true
    this.#outbox.clear()
    this.#onClose(this)
  }

  async exists(): Promise<boolean> {
    try {
      await this.#send(probeFrame)
      return true
    } catch {
      return false
    }
  }
}

async function resolveHost(host: string, port: number): Promise<string> {
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new KvxError('ERR_KVX_INVALID_OPTION', `${port} is no port: 0 to 65535.`, {
      phase: 'open',
    })
  }
  try {
    return (await lookup(host)).address
  } catch (cause) {
    throw new KvxError(
      'ERR_KVX_ADDRESS_UNAVAILABLE',
      `Cannot listen on ${host}: there is no such host name.`,
      {
        cause,
        phase: 'open',
      },
    )
  }
}

function unavailable(options: ControlServerOptions, cause: unknown): KvxError {
  if (isKvxError(cause)) return cause
  const where = formatEndpoint(options.host, options.port)
  const code = (cause as NodeJS.ErrnoException).code
  const why =
    code === 'EADDRINUSE'
      ? 'the port is in use. Choose another one, or 0 for any free one.'
      : code === 'EACCES'
        ? 'this user may not use that port.'
        : code === 'EADDRNOTAVAIL' || code === 'ENODEV'
          ? 'the address does not belong to this machine.'
          : code === 'EMFILE' || code === 'ENFILE'
            ? 'no file handle is left. Raise the limit (ulimit -n).'
            : `${(cause as Error).message}.`
  return new KvxError('ERR_KVX_ADDRESS_UNAVAILABLE', `Cannot listen on ${where}: ${why}`, {
    cause,
    phase: 'open',
  })
}
