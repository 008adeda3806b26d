/** The beginning of an answer, up to the end of its first event. */
import { createParser } from 'eventsource-parser'

/** Bytes in which a first event has ended; of a longer one nothing is said. */
const most = 64 * 1024

export interface Beginning {
  /** What has been read, to be passed on as it came. */
  readonly bytes: readonly Uint8Array[]
  /** The data of the first event, when the answer is a stream of them and it has come whole. */
  readonly event: string | undefined
}

/** Reads no more of `chunks` than it takes: a first event may come in many pieces, and a character in two. */
export async function readBeginning(
  contentType: string,
  chunks: AsyncIterator<Uint8Array, void>,
): Promise<Beginning> {
  const bytes: Uint8Array[] = []
  let event: string | undefined
  const parser = createParser({
    onEvent: ({ data }) => {
      event ??= data
    },
  })
  const decoder = new TextDecoder()
  const isStream = contentType.startsWith('text/event-stream')
  let length = 0
  do {
    const next = await chunks.next()
    if (next.done) break
    const { value } = next
    bytes.push(value)
    length += value.byteLength
    if (isStream) parser.feed(decoder.decode(value, { stream: true }))
  } while (isStream && event === undefined && length < most)
  return { bytes, event }
}
