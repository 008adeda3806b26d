import { type Log } from '@kvx/contract'
import { KvxError, toKvxError } from '@kvx/contract'
import { decodeFrame, encodeMessage, type Message } from './codec.ts'
import { parseEndpoint } from './endpoint.ts'
import { deploymentKeys } from './keys.ts'
import { Outbox } from './outbox.ts'
import { baseUnsentBytes, defaultLivenessMs, probeFrame, socketOptions } from './socket.ts'
import { Context, Dealer, type Observer } from './zeromq.ts'

const connectMs = 3_000

/** Frames that libzmq holds of a connection; what waits behind them waits in the outbox. */
const maxFramesInLibzmq = 16

export interface ControlClientOptions {
  /** `tcp://host:port` */
  endpoint: string
  token: string
  onMessage: (message: Message) => void
  /** Connected, and both sides have proven the same token. Called again after each reconnect. */
  onUp: () => void
  /**
   * The connection ended, or an attempt to make it failed; called for every failed attempt.
   * `ERR_KVX_UNAUTHORIZED`: something listens there, but with another token or another service.
   * `ERR_KVX_PEER_LOST`: nothing answers. Attempts go on until `close`.
   */
  onDown: (reason: KvxError) => void
  /** What arrived is no message; it has no other effect. */
  onMalformed?: (error: KvxError) => void
  log: Log
  livenessMs?: number
  /** Bytes of messages that may wait for a server which does not read them. One more ends the connection. */
  maxUnsentBytes?: number
}

/**
 * Of all clients of the process: a client takes three sockets of libzmq, its own and both ends of its monitor,
 * and a context holds no more than 1,023 unless it is told. File handles bound the number before that.
 */
let clients: Context | undefined

function clientContext(): Context {
  clients ??= new Context({ maxSockets: 65_535 })
  return clients
}

/** One connection to a `ControlServer`, made again with growing pauses whenever it ends. */
export class ControlClient {
  readonly endpoint: string
  readonly #options: ControlClientOptions
  readonly #socket: Dealer
  readonly #outbox: Outbox
  #up = false
  #handshaking = false
  #closed = false
  #reconnect: NodeJS.Timeout | undefined

  private constructor(options: ControlClientOptions, socket: Dealer, events: Observer) {
    this.endpoint = options.endpoint
    this.#options = options
    this.#socket = socket
    this.#outbox = new Outbox(
      (frame) => this.#offer(frame),
      () => {
        this.#giveUp(`a message to ${options.endpoint} could not be sent.`)
      },
    )
    void this.#watch(events)
    void this.#receive()
  }

  /**
   * Returns at once; `onUp` or `onDown` tell how it went.
   * @throws KvxError `ERR_KVX_INVALID_OPTION` for a malformed endpoint or a token shorter than 16 bytes, `ERR_KVX_CONNECT_FAILED`
   *   when there can be no further socket; nothing stays open then
   */
  static connect(options: ControlClientOptions): ControlClient {
    const address = parseEndpoint(options.endpoint)
    if (address === undefined || address.port === 0) {
      throw new KvxError(
        'ERR_KVX_INVALID_OPTION',
        `'${options.endpoint}' is no address of a kvx service: it must look like tcp://host:port.`,
      )
    }
    const keys = deploymentKeys(options.token)
    const create = () =>
      new Dealer({
        context: clientContext(),
        ...socketOptions(options.livenessMs ?? defaultLivenessMs),
        ipv6: address.host.includes(':'),
        // Messages are queued for a connection that exists, never for a future one: its peer may be another.
        immediate: true,
        sendHighWaterMark: maxFramesInLibzmq,
        connectTimeout: connectMs,
        reconnectInterval: 100,
        reconnectMaxInterval: 2_000,
        curveServerKey: keys.server.publicKey,
        curvePublicKey: keys.client.publicKey,
        curveSecretKey: keys.client.secretKey,
      })
    try {
      const [socket, events] = observe(create)
      try {
        socket.connect(options.endpoint)
      } catch (error) {
        socket.close()
        events.close()
        throw error
      }
      return new ControlClient(options, socket, events)
    } catch (cause) {
      const { message } = cause as Error
      throw new KvxError(
        'ERR_KVX_CONNECT_FAILED',
        `No socket could be made for ${options.endpoint}: ${message}.`,
        { cause, peer: options.endpoint },
      )
    }
  }

  get up(): boolean {
    return this.#up
  }

  /**
   * Queues a message and returns at once. False: the connection is down. It also ends here, and `onDown` is
   * called, when the server does not read and too much waits for it already. A queued message is lost when the
   * connection ends before it has left.
   * @throws KvxError `ERR_KVX_OVER_LIMIT` when the message is too large
   */
  send(message: Message): boolean {
    const encoded = encodeMessage(message)
    if (!this.#up) return false
    this.#outbox.push(encoded)
    if (this.#outbox.bytes <= (this.#options.maxUnsentBytes ?? baseUnsentBytes)) return true
    this.#giveUp(
      `${this.endpoint} does not read: ${this.#outbox.bytes} bytes wait for it. The connection was ended.`,
    )
    return false
  }

  #offer(frame: Uint8Array): Promise<void> {
    // Asking whether it is writable also makes libzmq take note of a new connection, or of the end of one.
    if (this.#socket.closed) return Promise.reject(new Error('The socket is closed.'))
    if (!this.#socket.writable) {
      return Promise.reject(Object.assign(new Error('The socket is full.'), { code: 'EAGAIN' }))
    }
    return this.#socket.send(frame)
  }

  /** Ends the connection so that the server learns of it at once, whatever has not left yet. */
  #giveUp(why: string): void {
    if (this.#closed) return
    const { linger } = this.#socket
    this.#socket.linger = 0
    this.#disconnect()
    this.#socket.linger = linger
    this.#down(lost(why))
    this.#connectAgain(100)
  }

  /** No callback is called any more. What is queued has a moment to leave. Idempotent. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#up = false
    clearTimeout(this.#reconnect)
    this.#outbox.flush()
    this.#socket.close()
  }

  async #receive(): Promise<void> {
    for await (const frames of this.#socket) {
      if (this.#closed) return
      const frame = frames[0]
      if (frame !== undefined && !frame.equals(probeFrame)) this.#deliver(frame)
    }
  }

  #deliver(frame: Buffer): void {
    try {
      for (const message of decodeFrame(frame)) {
        // By the handler of the message before it.
        if (this.#closed) return
        this.#call(() => {
          this.#options.onMessage(message)
        })
      }
    } catch (error) {
      const reason = toKvxError(error)
      this.#options.log.warn(
        { endpoint: this.endpoint, error: reason.message },
        'malformed message',
      )
      this.#call(() => this.#options.onMalformed?.(reason))
    }
  }

  async #watch(events: Observer): Promise<void> {
    for await (const event of events) {
      // Read to its end, which closes it: else its handles stay until it is collected.
      if (this.#closed) continue
      switch (event.type) {
        case 'connect':
          this.#handshaking = true
          break
        case 'handshake':
          this.#handshaking = false
          this.#up = true
          this.#call(this.#options.onUp)
          break
        case 'disconnect':
          if (this.#up) {
            this.#down(lost(`The connection to ${this.endpoint} was lost.`))
          } else if (this.#handshaking) {
            // Not even a greeting: libzmq says no more and does not try again by itself.
            this.#down(this.#unauthorized())
            this.#connectAgain(2_000)
          }
          break
        case 'close':
          this.#down(lost(`Nothing answers at ${this.endpoint}.`))
          break
        case 'handshake:error:other':
          this.#handshaking = false
          // EAGAIN: no answer within `handshakeInterval`. ECONNRESET: it died, or has too many callers. Else it hung up.
          this.#down(
            event.error.code === 'EAGAIN'
              ? lost(`${this.endpoint} accepted the connection, but did not answer.`)
              : event.error.code === 'ECONNRESET'
                ? lost(`${this.endpoint} ended the connection before it was made.`)
                : this.#unauthorized(event.error),
          )
          break
        case 'handshake:error:auth':
        case 'handshake:error:protocol':
          this.#handshaking = false
          this.#down(this.#unauthorized(event.error))
          this.#connectAgain(2_000)
          break
        default:
      }
    }
  }

  #unauthorized(cause?: Error): KvxError {
    return new KvxError(
      'ERR_KVX_UNAUTHORIZED',
      `${this.endpoint} refused the handshake: it has another token, or is no kvx service.`,
      { cause, peer: this.endpoint },
    )
  }

  #down(reason: KvxError): void {
    this.#up = false
    // Nothing is meant for the next connection: its peer may be another.
    this.#outbox.clear()
    this.#call(() => {
      this.#options.onDown(reason)
    })
  }

  #connectAgain(ms: number): void {
    if (this.#closed) return
    this.#disconnect()
    clearTimeout(this.#reconnect)
    this.#reconnect = setTimeout(() => {
      try {
        this.#socket.connect(this.endpoint)
      } catch (cause) {
        const { message } = cause as Error
        this.#down(lost(`The connection to ${this.endpoint} could not be made: ${message}.`))
        this.#connectAgain(2_000)
      }
    }, ms)
  }

  #disconnect(): void {
    try {
      this.#socket.disconnect(this.endpoint)
    } catch {
      // libzmq has forgotten the endpoint already.
    }
  }

  /** A defect in a handler must not end the loops. */
  #call(handler: () => void): void {
    try {
      handler()
    } catch (error) {
      this.#options.log.error({ error }, 'a control message handler failed')
    }
  }
}

/**
 * A socket and its monitor. zeromq.js names a monitor by its address in memory, so a new one at the
 * place of one that was just closed may find the name still taken; the next has another place.
 */
function observe(create: () => Dealer): [Dealer, Observer] {
  const unfit: Dealer[] = []
  try {
    for (;;) {
      const socket = create()
      try {
        return [socket, socket.events]
      } catch (error) {
        unfit.push(socket)
        if (unfit.length === 5 || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE')
          throw error
      }
    }
  } finally {
    for (const socket of unfit) socket.close()
  }
}

function lost(message: string): KvxError {
  return new KvxError('ERR_KVX_PEER_LOST', message)
}
