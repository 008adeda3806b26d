/** Reads the bodies of requests, with bounds on each of them, on all together, and on how slowly one may come. */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { setImmediate } from 'node:timers/promises'
import type { HttpBindings } from '@hono/node-server'
import { KvxError } from '@kvx/contract'
import { plainError, Refusal } from './errors.ts'

/** A prompt of a hundred thousand token ids, with room to spare. */
const maxBodyBytes = 4 * 2 ** 20
/** Counted until the answer has left: what was made of a body lives as long as the request. */
const maxHeldBytes = 64 * 2 ** 20
/** In each such span so many bytes more must come, or the rest of the body. */
const bodyPaceMs = 10_000
const bodyPaceBytes = 256 * 2 ** 10
/** Each piece in which a body comes is work of its own, and a chunk may have one byte: so many, */
const freePieces = 4096
/** and one more for so many bytes. A network's smallest packets are larger. */
const bytesPerPiece = 256
/** Pieces that are kept before they become a block: a piece of one byte takes hundreds. */
const keptPieces = 256
const blockBytes = 64 * 2 ** 10
const blocksPerTurn = 16

export interface BodyLimits {
  readonly bodyBytes: number
  readonly heldBytes: number
  readonly paceMs: number
  readonly paceBytes: number
}

export const bodyLimits: BodyLimits = {
  bodyBytes: maxBodyBytes,
  heldBytes: maxHeldBytes,
  paceMs: bodyPaceMs,
  paceBytes: bodyPaceBytes,
}

/** The bodies of one server. */
export class Bodies {
  readonly #limits: BodyLimits
  #held = 0

  constructor(limits: BodyLimits) {
    this.#limits = limits
  }

  /**
   * The JSON text that a request carries. To be called once for each.
   * @throws Refusal with 408, 413 or 415; KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_OVER_LIMIT`, `ERR_KVX_ABORTED`
   */
  async text({ incoming, outgoing }: HttpBindings): Promise<string> {
    checkKind(incoming.headers)
    if (Number(incoming.headers['content-length'] ?? 0) > this.#limits.bodyBytes) this.#tooLarge()
    let mine = 0
    outgoing.once('close', () => {
      this.#held -= mine
    })
    if (incoming.headers.expect !== undefined) outgoing.writeContinue()
    let pieces = 0
    const blocks = await this.#read(incoming, (more) => {
      mine += more
      this.#held += more
      if (mine > this.#limits.bodyBytes) this.#tooLarge()
      if (++pieces > freePieces + mine / bytesPerPiece) tooManyPieces(pieces)
      if (this.#held > this.#limits.heldBytes) {
        throw new KvxError(
          'ERR_KVX_OVER_LIMIT',
          `This server holds ${mebibytes(this.#limits.heldBytes)} of requests already: send this one again in a moment.`,
          { phase: 'open' },
        )
      }
    })
    const text = await blocks.text()
    // What is made of it has a turn of the event loop for itself.
    await setImmediate()
    return text
  }

  /** @param count is told of every part before it is kept, and throws when it may not be */
  #read(incoming: IncomingMessage, count: (bytes: number) => void): Promise<Blocks> {
    const { paceMs, paceBytes } = this.#limits
    return new Promise((resolve, reject) => {
      const blocks = new Blocks()
      let bytes = 0
      let seen = 0
      const pace = setInterval(() => {
        if (bytes - seen < paceBytes) {
          const seconds = String(paceMs / 1_000)
          const message = `The body came too slowly: in ${seconds} s its end, or ${String(paceBytes)} bytes more, must come.`
          end(new Refusal(plainError(408, 'body_too_slow', message)))
        }
        seen = bytes
      }, paceMs)
      const end = (error?: Error) => {
        clearInterval(pace)
        incoming.off('data', take).off('end', whole).off('close', gone).off('error', gone)
        // Listened to for ever: a connection may still break while the answer is on its way.
        incoming.on('error', () => undefined)
        if (error === undefined) resolve(blocks)
        else reject(error)
      }
      const take = (part: Buffer) => {
        try {
          count(part.length)
        } catch (cause) {
          end(cause as Error)
          return
        }
        bytes += part.length
        blocks.push(part)
      }
      const whole = () => {
        end()
      }
      const gone = () => {
        end(new KvxError('ERR_KVX_ABORTED', 'The client closed its connection.', { phase: 'open' }))
      }
      incoming.on('data', take).on('end', whole).on('close', gone).on('error', gone)
      if (incoming.destroyed) gone()
    })
  }

  #tooLarge(): never {
    const message = `The body is larger than ${String(this.#limits.bodyBytes)} bytes.`
    throw new Refusal(plainError(413, 'body_too_large', message))
  }
}

/** What has come of a body, in blocks, whatever the pieces in which it came. */
class Blocks {
  readonly #blocks: Buffer[] = []
  #kept: Buffer[] = []
  #bytes = 0

  push(piece: Buffer): void {
    this.#kept.push(piece)
    this.#bytes += piece.length
    if (this.#kept.length >= keptPieces || this.#bytes >= blockBytes) this.#join()
  }

  /**
   * The text of all, which is made in several turns of the event loop: that of four megabytes takes long.
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
   */
  async text(): Promise<string> {
    this.#join()
    // A byte order mark is no part of the text.
    const utf8 = new TextDecoder('utf-8', { fatal: true })
    const texts: string[] = []
    try {
      for (const [i, block] of this.#blocks.entries()) {
        texts.push(utf8.decode(block, { stream: i < this.#blocks.length - 1 }))
        if (i % blocksPerTurn === blocksPerTurn - 1) await setImmediate()
      }
    } catch (cause) {
      throw new KvxError('ERR_KVX_INVALID_ARGUMENT', 'The body is not valid UTF-8.', {
        cause,
        phase: 'open',
      })
    }
    return texts.join('')
  }

  #join(): void {
    this.#blocks.push(Buffer.concat(this.#kept, this.#bytes))
    this.#kept = []
    this.#bytes = 0
  }
}

function tooManyPieces(pieces: number): never {
  const message = `The body came in ${String(pieces)} pieces, too many for its length: send it with content-length, or in larger chunks.`
  throw new Refusal(plainError(413, 'body_in_pieces', message))
}

/**
 * Only what says that it is JSON: a web page may send any other kind to any address without being asked.
 * @throws Refusal
 */
function checkKind(headers: IncomingHttpHeaders): void {
  const encoding = headers['content-encoding']?.trim().toLowerCase() ?? ''
  if (encoding !== '' && encoding !== 'identity') {
    unsupported(
      `A body with content-encoding ${JSON.stringify(encoding.slice(0, 100))} is not understood: send it as it is.`,
    )
  }
  const [type = '', ...parameters] = (headers['content-type'] ?? '').toLowerCase().split(';')
  if (type.trim() !== 'application/json') {
    const came = type.trim() === '' ? 'no content-type' : `content-type ${type.trim()}`
    unsupported(
      `A body must be JSON and say so, but came with ${came.slice(0, 100)}: send the header content-type: application/json.`,
    )
  }
  for (const parameter of parameters) {
    const charset = /^\s*charset\s*=\s*"?([^\s"]*)"?\s*$/.exec(parameter)?.[1]
    if (charset !== undefined && charset !== 'utf-8' && charset !== 'utf8') {
      unsupported(`A body must be UTF-8, but came with charset ${charset.slice(0, 100)}.`)
    }
  }
}

function unsupported(message: string): never {
  throw new Refusal(plainError(415, 'unsupported_media_type', message))
}

const mebibytes = (bytes: number) => `${String(bytes / 2 ** 20)} MiB`
