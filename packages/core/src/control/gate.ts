/**
 * What strangers meet first. libzmq takes as many connections as come and gives each five seconds; so the
 * port is listened on here, and libzmq sits behind it on a socket that nobody else can reach. Bytes
 * pass through unread, except for the two frames that tell whether a connection is still a stranger's.
 *
 * It is also where the server's messages wait for a client that does not read: their bytes are counted here, and
 * here its connection can be ended, which libzmq does not offer.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, constants, mkdtempSync, openSync, rmdirSync, unlinkSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { KvxError, systemReason } from '@kvx/contract'

/** Connections that have not shown the token. One more ends the oldest of them. */
export const maxStrangers = 512
/** Connections that have shown it. One more is turned away. */
export const maxPeers = 4_096
/** What a stranger may send in all; a whole handshake takes less than a third of it. */
const maxStrangerBytes = 2_048
/** ZMTP: both sides begin with ten bytes of signature, and the greeting has 64. */
const signatureBytes = 10
const greetingBytes = 64

/** A place for libzmq to listen that only this process can reach. */
export class BackDoor {
  /** For `bind`. */
  readonly endpoint: string
  readonly #folder: string
  readonly #path: string
  /** On Linux: handles on the folder and, once libzmq listens, on the file. */
  #directory: number | undefined
  #file: number | undefined

  /** @throws KvxError `ERR_KVX_ADDRESS_UNAVAILABLE` when the temporary folder cannot be used */
  constructor() {
    this.#folder = makeFolder()
    const name = randomBytes(8).toString('hex')
    this.#path = join(this.#folder, name)
    try {
      if (process.platform === 'linux') {
        this.#directory = openSync(this.#folder, constants.O_DIRECTORY)
      }
    } catch (cause) {
      this.#remove()
      throw cause
    }
    // Through the handle, because the path of a socket is at most 107 bytes long, and TMPDIR may be longer.
    this.endpoint =
      this.#directory === undefined
        ? `ipc://${this.#path}`
        : `ipc:///proc/self/fd/${this.#directory}/${name}`
  }

  /**
   * Once libzmq listens. On Linux the file is removed at once and found by its open handle from then on, so that
   * nothing is left of a process that is killed.
   */
  open(): void {
    if (process.platform !== 'linux') return
    this.#file = openSync(this.#path, oPath | constants.O_NOFOLLOW)
    this.#remove()
  }

  connect(): Socket {
    return connect(this.#file === undefined ? this.#path : `/proc/self/fd/${this.#file}`)
  }

  close(): void {
    for (const handle of [this.#file, this.#directory]) {
      if (handle !== undefined) closeSync(handle)
    }
    this.#file = undefined
    this.#directory = undefined
    this.#remove()
  }

  /**
   * By `unlink` and `rmdir`: in Node 20 and 22 `rm` of a socket, whether by `rmSync` or `fs.promises`, makes the
   * module loader of the whole process stop resolving symbolic links, so that no package that is installed as
   * a link finds its dependencies any more.
   */
  #remove(): void {
    ignoreMissing(() => {
      unlinkSync(this.#path)
    })
    ignoreMissing(() => {
      rmdirSync(this.#folder)
    })
  }
}

/** It may not have been made, or be removed already: libzmq removes its file as well. */
function ignoreMissing(remove: () => void): void {
  try {
    remove()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

function makeFolder(): string {
  try {
    return mkdtempSync(join(tmpdir(), 'kvx-'))
  } catch (cause) {
    throw new KvxError(
      'ERR_KVX_ADDRESS_UNAVAILABLE',
      `A control port needs a socket in the temporary folder ${tmpdir()}, and none can be made there: ${systemReason(cause)}. Set TMPDIR to a folder that can be written.`,
      { cause, phase: 'open' },
    )
  }
}

/** `O_PATH`, which Node does not name: a handle on the file itself, without opening what it stands for. */
const oPath = 0o10000000

interface Stranger {
  readonly client: Socket
  readonly deadline: NodeJS.Timeout
}

interface GateOptions {
  readonly backDoor: BackDoor
  /** Within this time a stranger must have shown the token. */
  readonly handshakeMs: number
  /** Bytes that may wait for a client which does not read. */
  readonly maxUnsentBytes: number
}

/** Listens, and passes on what comes of each connection that begins like one of libzmq's. */
export class Gate {
  readonly host: string
  readonly port: number
  readonly #server: Server
  readonly #backDoor: BackDoor
  readonly #handshakeMs: number
  readonly #maxUnsentBytes: number
  /** In the order in which they came: those that have said nothing, and those that have begun a handshake. */
  readonly #silent = new Map<Socket, Stranger>()
  readonly #greeting = new Map<Socket, Stranger>()
  readonly #peers = new Set<Socket>()

  private constructor(server: Server, options: GateOptions) {
    const { address, port } = server.address() as AddressInfo
    this.host = address
    this.port = port
    this.#server = server
    this.#backDoor = options.backDoor
    this.#handshakeMs = options.handshakeMs
    this.#maxUnsentBytes = options.maxUnsentBytes
    server.on('connection', (client) => {
      this.#admit(client)
    })
  }

  /** Throws what `listen` of node:net fails with. */
  static async open(options: GateOptions & { host: string; port: number }): Promise<Gate> {
    const server = createServer({ noDelay: true })
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ host: options.host, port: options.port, backlog: maxStrangers }, () => {
        server.off('error', reject)
        resolve()
      })
    })
    // Accepting fails for one connection at a time (no file handle is left): the next may do better.
    server.on('error', () => undefined)
    return new Gate(server, options)
  }

  /** Connections that have not shown the token, and those that have. */
  get connections(): { strangers: number; peers: number } {
    return { strangers: this.#silent.size + this.#greeting.size, peers: this.#peers.size }
  }

  /** Ends every connection and frees the port. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => {
        resolve()
      })
      for (const client of [...this.#silent.keys(), ...this.#greeting.keys(), ...this.#peers])
        client.destroy()
    })
  }

  #admit(client: Socket): void {
    client.on('error', () => undefined)
    if (this.#peers.size >= maxPeers) {
      client.resetAndDestroy()
      return
    }
    this.#makeRoom()
    const deadline = setTimeout(() => {
      client.resetAndDestroy()
    }, this.#handshakeMs).unref()
    const stranger = { client, deadline }
    this.#silent.set(client, stranger)
    client.once('close', () => {
      clearTimeout(deadline)
      this.#silent.delete(client)
      this.#greeting.delete(client)
      this.#peers.delete(client)
    })
    awaitSignature(client, (begin) => {
      this.#silent.delete(client)
      this.#greeting.set(client, stranger)
      this.#passOn(stranger, begin)
    })
  }

  /** Who says nothing goes before who has begun: an honest handshake ends long before its turn comes. */
  #makeRoom(): void {
    if (this.#silent.size + this.#greeting.size < maxStrangers) return
    const [oldest] = this.#silent.size > 0 ? this.#silent.keys() : this.#greeting.keys()
    if (oldest === undefined) return
    this.#silent.delete(oldest)
    this.#greeting.delete(oldest)
    // A reset tells an honest client that it was not refused, and leaves nothing behind in the kernel.
    oldest.resetAndDestroy()
  }

  #passOn({ client, deadline }: Stranger, begin: Buffer): void {
    const inner = this.#backDoor.connect()
    inner.on('error', () => undefined)
    let sent = begin.length
    const count = (chunk: Buffer) => {
      sent += chunk.length
      if (sent > maxStrangerBytes) client.resetAndDestroy()
    }
    let answered: Buffer = Buffer.alloc(0)
    const watch = (chunk: Buffer) => {
      answered = Buffer.concat([answered, chunk])
      const state = serverState(answered)
      if (state === 'handshake') return
      client.off('data', count)
      inner.off('data', watch)
      if (state === 'refused') return
      clearTimeout(deadline)
      this.#greeting.delete(client)
      this.#peers.add(client)
    }
    inner.on('data', watch)
    client.on('data', count)
    inner.write(begin)
    client.pipe(inner)
    // libzmq is never made to wait: what the client has not taken is held here.
    inner.on('data', (chunk) => {
      client.write(chunk)
      if (client.writableLength > this.#maxUnsentBytes) client.resetAndDestroy()
    })
    inner.once('end', () => client.end())
    client.once('close', () => inner.destroy())
    inner.once('close', () => client.destroy())
  }
}

/** Calls back with the first bytes once they are those of ZMTP; anything else ends the connection. */
function awaitSignature(client: Socket, begun: (begin: Buffer) => void): void {
  let begin: Buffer = Buffer.alloc(0)
  const onData = (chunk: Buffer) => {
    begin = Buffer.concat([begin, chunk])
    const wrong = begin[0] !== 0xff || begin.length > maxStrangerBytes
    if (wrong || (begin.length >= signatureBytes && ((begin[9] ?? 0) & 1) === 0)) {
      client.resetAndDestroy()
    } else if (begin.length >= signatureBytes) {
      client.off('data', onData)
      begun(begin)
    }
  }
  client.on('data', onData)
}

/**
 * How far libzmq is, from all that it has said: it says READY when the client's keys are those of the
 * deployment and ERROR when they are not (RFC 37/ZMTP, RFC 26/CurveZMQ).
 */
function serverState(said: Buffer): 'handshake' | 'ready' | 'refused' {
  let at = greetingBytes
  while (at + 2 <= said.length) {
    // A short command: 4, the length of what follows, the length of its name, the name.
    const [flags = 0, length = 0, nameLength = 0] = said.subarray(at, at + 3)
    if (flags !== 4) return 'refused'
    const end = at + 2 + length
    if (end > said.length) return 'handshake'
    const name = said.toString('latin1', at + 3, at + 3 + nameLength)
    if (name === 'READY') return 'ready'
    if (name !== 'WELCOME') return 'refused'
    at = end
  }
  return 'handshake'
}
