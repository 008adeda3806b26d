/** Runs one long command: its output is kept, and meanwhile a line on stderr shows that it lives. */
import { spawn } from 'node:child_process'
import { stripVTControlCharacters } from 'node:util'
import { root } from './repository.mjs'

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP']
const live = new Set()
let ending

const killAll = () => live.forEach((child) => child.kill('SIGKILL'))
const passOn = (signal) => {
  ending = signal
  for (const child of live) child.kill(signal)
  // npm, for one, would first finish what it does.
  setTimeout(killAll, 5_000).unref()
}

/** Children get our signals and do not outlive us. Only while there are any: later commands have their own rules. */
function guard(child) {
  if (live.size === 0) {
    for (const signal of signals) process.on(signal, passOn)
    process.on('exit', killAll)
  }
  live.add(child)
  return () => {
    live.delete(child)
    if (live.size > 0) return
    for (const signal of signals) process.off(signal, passOn)
    process.off('exit', killAll)
    if (ending !== undefined) process.kill(process.pid, ending)
  }
}

export const elapsed = (since) => `${((Date.now() - since) / 1000).toFixed(1)} s`

/**
 * Resolves to `{ ok, output, reason }` when the command has ended, `output` being stdout and stderr
 * in the order of arrival; never rejects. With `stream`, both go to stdout as they come.
 */
export function run(title, command, args, { env = process.env, stream = false, cwd = root } = {}) {
  return new Promise((resolve) => {
    const started = Date.now()
    const stdio = stream ? ['ignore', 1, 1] : ['ignore', 'pipe', 'pipe']
    const child = spawn(command, args, { cwd, env, stdio })
    const release = guard(child)
    let output = ''
    const keep = (text) => (output += text)
    child.stdout?.setEncoding('utf8').on('data', keep)
    child.stderr?.setEncoding('utf8').on('data', keep)
    const stopShowing = stream ? () => {} : showLife(title, started, () => output)
    const end = (reason) => {
      stopShowing()
      release()
      resolve({ ok: reason === undefined, output, reason })
    }
    child.on('error', (error) => end(`${command} could not be started: ${error.message}`))
    child.on('close', (code, signal) => {
      if (code === 0) end(undefined)
      else end(signal === null ? `exit code ${code}` : `ended by ${signal}`)
    })
  })
}

/** On a terminal one line that counts seconds, elsewhere a line every 20 seconds. */
function showLife(title, started, output) {
  const terminal = process.stderr.isTTY
  const show = () => {
    const tail = stripVTControlCharacters(output().slice(-2000)).trim()
    const last = tail.slice(Math.max(tail.lastIndexOf('\n'), tail.lastIndexOf('\r')) + 1).trim()
    const line = `kvx: ${title} … ${elapsed(started)}${last === '' ? '' : `  ${last}`}`
    if (terminal)
      process.stderr.write(`\r\x1b[K${line.slice(0, (process.stderr.columns || 80) - 1)}`)
    else process.stderr.write(`${line.slice(0, 160)}\n`)
  }
  if (terminal) show()
  const timer = setInterval(show, terminal ? 250 : 20_000)
  return () => {
    clearInterval(timer)
    if (terminal) process.stderr.write('\r\x1b[K')
  }
}
