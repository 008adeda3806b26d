/** Does resident memory grow with the frames? */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Bytes that may be gained per million frames, and in all. */
const maxSlope = 1 << 20
const maxGrowth = 48 << 20
/** A regression over a shorter run tells little. */
const enoughFrames = 4_000_000

const numbers = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })
const format = (value: number) => numbers.format(value)

type Sample = readonly [frames: number, bytes: number]

export class MemoryWatch {
  readonly #samples: Sample[] = []
  readonly #collect: () => void

  constructor() {
    setFlagsFromString('--expose-gc')
    this.#collect = runInNewContext('gc') as () => void
  }

  /** @returns bytes of resident memory, after a collection */
  sample(frames: number): number {
    this.#collect()
    const bytes = process.memoryUsage.rss()
    this.#samples.push([frames, bytes])
    return bytes
  }

  /** What there is to say of a run of so many frames. */
  judge(frames: number): { readonly isLeaking: boolean; readonly lines: readonly string[] } {
    // The first quarter warms up the compiler and the heap.
    const warm = this.#samples.slice(Math.floor(this.#samples.length / 4))
    const [first, last] = [warm[0], warm.at(-1)]
    if (warm.length < 3 || !first || !last) return { isLeaking: false, lines: [] }
    const perMillion = slope(warm) * 1e6
    const growth = last[1] - first[1]
    const isLeaking = growth > maxGrowth || (frames >= enoughFrames && perMillion > maxSlope)
    const told = `resident memory: ${format(perMillion)} bytes per million frames (regression over ${String(warm.length)} samples), ${format(growth)} from the first to the last`
    const wrong = `more than ${format(maxSlope)} per million or ${format(maxGrowth)} in all: something is kept`
    return { isLeaking, lines: isLeaking ? [told, wrong] : [told] }
  }
}

/** Least squares. */
function slope(samples: readonly Sample[]): number {
  const mean = (index: 0 | 1) =>
    samples.reduce((sum, sample) => sum + sample[index], 0) / samples.length
  const [x, y] = [mean(0), mean(1)]
  const top = samples.reduce((sum, [frames, bytes]) => sum + (frames - x) * (bytes - y), 0)
  return top / samples.reduce((sum, [frames]) => sum + (frames - x) ** 2, 0)
}
