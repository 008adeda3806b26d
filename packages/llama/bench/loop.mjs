// How long one prompt can keep the event loop of a worker from everything else: the longest delay while each
// is tokenized or refused, one after the other.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import { LlamaModel, pullModel, StopMatcher } from '@kvx/llama'

const path = await pullModel('smollm2')
const model = await LlamaModel.load({ path })
const most = model.contextLength * (model.vocabulary.longest ?? 0)
// Through a buffer, as a body comes: what `repeat` makes is put together when it is first read.
const filled = (text, bytes) =>
  Buffer.from(text.repeat(Math.floor(bytes / Buffer.byteLength(text)))).toString()
const bodies = {
  '4 MiB of letters': filled('a', 4 * 2 ** 20),
  'special tokens, as long as may be': filled('<|im_start|>', most),
  'blanks, as long as may be': filled(' ', most),
  'one letter, as long as may be': filled('a', most),
  'words, as long as may be': filled('The quick brown fox. ', most),
  'marks on letters, as long as may be': filled('e\u0301\u0301', most),
  'special tokens, in this process': filled('<|im_start|>', 4096),
  'blanks, in this process': filled(' ', 4096),
  'one letter, in this process': filled('a', 4096),
}
await model.tokenizePrompt(filled('The quick brown fox. ', 5000))
let worst = 0
const show = async (name, work) => {
  await sleep(50)
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  await sleep(5)
  await work()
  await sleep(5)
  delay.disable()
  worst = Math.max(worst, delay.max / 1e6)
  console.log(`${name}: ${(delay.max / 1e6).toFixed(1)} ms`)
}
for (const [name, text] of Object.entries(bodies)) {
  await show(name, () => model.tokenizePrompt(text).catch(() => undefined))
}
await show('16 stop strings of 1 KiB, 1,000 tokens', async () => {
  const matcher = new StopMatcher(Array.from({ length: 16 }, (_, i) => `${'a'.repeat(1020)}${i}b`))
  for (let token = 0; token < 1000; token++) {
    matcher.push('aaaa')
    await turn()
  }
})
await model.dispose()
console.log(`worst: ${worst.toFixed(1)} ms`)
process.exitCode = worst <= 20 ? 0 : 1
