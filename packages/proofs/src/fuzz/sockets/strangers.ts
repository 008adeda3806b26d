import { connect } from 'node:net'
import type { FrameRandom } from '../random.ts'

const greeting = Buffer.from(
  `ff00000000000000017f0301${Buffer.from('CURVE').toString('hex').padEnd(40, '0')}${'00'.repeat(32)}`,
  'hex',
)

const atOnce = 50

/**
 * Connections without the token: parts and variants of a greeting, and noise.
 * @returns how many
 */
export async function strangers(
  random: FrameRandom,
  endpoints: readonly string[],
  count: number,
): Promise<number> {
  for (let made = 0; made < count; made += atOnce) {
    await Promise.all(
      Array.from({ length: atOnce }, () => {
        const port = Number(random.one(endpoints).split(':').at(-1))
        return talk(port, anything(random))
      }),
    )
  }
  return count
}

function anything(random: FrameRandom): Uint8Array {
  const begin = Buffer.from(random.chance(0.8) ? greeting : random.bytes(64))
  if (random.chance(0.5)) begin[random.below(64)] = random.below(256)
  return Buffer.concat([begin.subarray(0, random.below(65)), random.bytes(random.below(400))])
}

/** Resolves when the other side, or both, have had enough. */
function talk(port: number, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.on('close', () => resolve())
    socket.on('connect', () => socket.end(bytes))
    socket.resume()
  })
}
