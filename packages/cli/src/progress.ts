/** How far a download is, on stderr: a line that rewrites itself on a terminal, a few lines elsewhere. */
import type { PullOptions } from '@kvx/llama'

const names = { download: 'downloading the model', unpack: 'unpacking the model' } as const

export function pullProgress(): PullOptions {
  const terminal = process.stderr.isTTY
  let shown = ''
  let worked = false
  return {
    onProgress: ({ phase, bytes, totalBytes }) => {
      if (phase === 'done') {
        if (worked) process.stderr.write(terminal ? '\r\x1b[Kmodel ready\n' : 'model ready\n')
        return
      }
      worked = true
      const percent = Math.min(100, Math.floor((100 * bytes) / totalBytes))
      const step = terminal ? percent : percent - (percent % 25)
      const line = `${names[phase]}: ${String(step)} % of ${(totalBytes / 1e6).toFixed(0)} MB`
      if (line === shown) return
      shown = line
      process.stderr.write(terminal ? `\r\x1b[K${line}` : `${line}\n`)
    },
  }
}
