/**
 * `npm start [-- ARGUMENTS]`: set-up, then `kvx up ARGUMENTS` in this same process, so that signals
 * and the exit code are its own. Without arguments a first prompt is answered on the screen.
 */
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { kvxCommand } from './lib/repository.mjs'
import { setUp } from './setup.mjs'

const firstPrompt = 'The capital of France is'

/** Resolves to the address that `kvx up` prints once it serves. */
const announced = new Promise((resolve) => {
  const write = process.stdout.write.bind(process.stdout)
  process.stdout.write = (text, ...rest) => {
    const url = /^kvx ready at (\S+)/.exec(text)?.[1]
    if (url !== undefined) {
      process.stdout.write = write
      resolve(url)
    }
    return write(text, ...rest)
  }
})

async function answerFirstPrompt() {
  const url = await announced
  const client = pathToFileURL(join(dirname(kvxCommand), 'completion.js')).href
  const { complete } = await import(client)
  const question = { prompt: firstPrompt, maxTokens: 32, temperature: 0, seed: 0 }
  process.stdout.write(`\nA first prompt: ${firstPrompt}`)
  const show = (text) => process.stdout.write(text)
  try {
    const { transfer } = await complete(url, question, show, AbortSignal.timeout(60_000))
    const moved =
      transfer && `${transfer.pages} pages, ${transfer.bytes} bytes moved by ${transfer.backend}`
    show(`\n${moved ? `(${moved} from prefill to decode)\n` : ''}`)
  } catch (error) {
    process.stderr.write(`\nThe first prompt was not answered: ${error.message}\n`)
  }
}

if ((await setUp()).length > 0) {
  process.exitCode = 1
} else {
  const args = process.argv.slice(2)
  if (args.length === 0) void answerFirstPrompt()
  process.argv = [process.execPath, kvxCommand, 'up', ...args]
  await import(pathToFileURL(kvxCommand).href)
}
