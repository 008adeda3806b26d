import { maxFrameMessages } from './codec.ts'

/** A frame takes messages up to this size; a larger message travels alone. */
const maxBatchBytes = 256 * 1024
/** Until a frame that could not be taken is offered again. */
const retryMs = 2

/**
 * What waits to be sent on one connection. The messages of one turn of the event loop travel together, and
 * one frame is offered at a time: what libzmq does not take yet waits here, where its bytes are counted.
 */
export class Outbox {
  readonly #send: (frame: Uint8Array) => Promise<void>
  readonly #onLost: () => void
  #queue: Uint8Array[] = []
  #bytes = 0
  #scheduled = false
  /** What is offered at present, or again in a moment. */
  #offered: Uint8Array | undefined

  /**
   * @param send fails with the code `EAGAIN` when the frame cannot be taken yet
   * @param onLost a frame could not be sent for another reason; all that waited is dropped
   */
  constructor(send: (frame: Uint8Array) => Promise<void>, onLost: () => void) {
    this.#send = send
    this.#onLost = onLost
  }

  /** Of the messages that have not been sent. */
  get bytes(): number {
    return this.#bytes
  }

  push(message: Uint8Array): void {
    this.#queue.push(message)
    this.#bytes += message.length
    if (this.#scheduled || this.#offered !== undefined) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      void this.#run()
    })
  }

  /** Offers everything at once, and keeps nothing. */
  flush(): void {
    const frames = this.#offered === undefined ? [] : [this.#offered]
    for (let next = this.#take(); next !== undefined; next = this.#take()) frames.push(next)
    this.clear()
    for (const frame of frames) this.#send(frame).catch(() => undefined)
  }

  /** What waits will never be sent. */
  clear(): void {
    this.#queue = []
    this.#bytes = 0
    this.#offered = undefined
  }

  async #run(): Promise<void> {
    if (this.#offered !== undefined) return
    for (let frame = this.#take(); frame !== undefined; frame = this.#take()) {
      this.#offered = frame
      if (!(await this.#offer(frame))) return
      this.#offered = undefined
      this.#bytes -= frame.length
    }
  }

  /** Until it is taken; false when it is of no use any more. */
  async #offer(frame: Uint8Array): Promise<boolean> {
    for (;;) {
      try {
        await this.#send(frame)
        return this.#offered === frame
      } catch (error) {
        if (this.#offered !== frame) return false
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') {
          this.clear()
          this.#onLost()
          return false
        }
        await new Promise((resolve) => setTimeout(resolve, retryMs))
        if (this.#offered !== frame) return false
      }
    }
  }

  /** The next frame. */
  #take(): Uint8Array | undefined {
    const [first] = this.#queue
    if (first === undefined) return undefined
    let count = 1
    let bytes = first.length
    for (; count < Math.min(this.#queue.length, maxFrameMessages); count++) {
      const length = this.#queue[count]?.length ?? 0
      if (bytes + length > maxBatchBytes) break
      bytes += length
    }
    const messages = this.#queue.splice(0, count)
    return count === 1 ? first : Buffer.concat(messages, bytes)
  }
}
