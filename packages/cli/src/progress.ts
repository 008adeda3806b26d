/** How far a download is, or the first reading of a large model, on stderr: a line that rewrites itself on a terminal, a few lines elsewhere. */
import type { LoadOptions, PullOptions } from '@kvx/llama'

const names = {
  install: 'installing llama.cpp, once',
  download: 'downloading the model',
  unpack: 'unpacking the model',
} as const

/** A smaller file is read before anybody wonders. */
const worthTelling = 1e9

export function pullProgress(): PullOptions {
  const line = new Line()
  return {
    onProgress: ({ phase, bytes, totalBytes }) => {
      if (phase === 'done') line.end('model ready')
      else line.show(names[phase], bytes, totalBytes)
    },
  }
}

/** For the reading of a model that gives it its identity. */
export function readProgress(): LoadOptions['onProgress'] {
  const line = new Line()
  return ({ bytes, totalBytes }) => {
    if (totalBytes < worthTelling) return
    line.show('reading the model once, to identify it', bytes, totalBytes)
    if (bytes === totalBytes) line.end('model read')
  }
}

/** Of so many requests, for `kvx synth`; only on a terminal. */
export function requestProgress(): (ended: number, requests: number) => void {
  return (ended, requests) => {
    if (!process.stderr.isTTY) return
    const word = `${String(ended)} of ${String(requests)} requests`
    process.stderr.write(ended === requests ? '\r\x1b[K' : `\r\x1b[K${word}`)
  }
}

/** Between two lines of a long run where they are kept. */
const quietMs = 10_000

/** What a long run does next, and how far it is, on stderr: one line on a terminal, else one from time to time. */
export function stepProgress(): {
  readonly step: (what: string, done: number, all: number) => void
  readonly end: () => void
} {
  const isTerminal = process.stderr.isTTY
  let last = -Infinity
  return {
    step(what, done, all) {
      const line = `${String(Math.floor((100 * done) / Math.max(1, all)))} %: ${what}`
      if (isTerminal) process.stderr.write(`\r\x1b[K${line}`)
      else if (performance.now() - last >= quietMs) {
        last = performance.now()
        process.stderr.write(`${line}\n`)
      }
    },
    end() {
      if (isTerminal) process.stderr.write('\r\x1b[K')
    },
  }
}

class Line {
  readonly #terminal = process.stderr.isTTY
  #shown = ''

  show(what: string, bytes: number, totalBytes: number): void {
    const percent = Math.min(100, Math.floor((100 * bytes) / totalBytes))
    const step = this.#terminal ? percent : percent - (percent % 25)
    const line = `${what}: ${String(step)} % of ${(totalBytes / 1e6).toFixed(0)} MB`
    if (line === this.#shown) return
    this.#shown = line
    process.stderr.write(this.#terminal ? `\r\x1b[K${line}` : `${line}\n`)
  }

  /** Says nothing when nothing was shown. */
  end(word: string): void {
    if (this.#shown === '') return
    process.stderr.write(this.#terminal ? `\r\x1b[K${word}\n` : `${word}\n`)
  }
}
