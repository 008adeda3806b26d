// Whether a worker's memory stays flat: 20,000 sampled tokens in four answers at a time, then 2,000 prefills
// of short prompts that end with their first token. Prints resident memory; exits 1 when it moved by more
// than 5 % after the first tenth.
import { generate, LlamaModel, prefill, pullModel } from '@kvx/llama'

const [tokens = 20_000, prefills = 2_000] = process.argv.slice(2).map(Number)
const path = await pullModel('smollm2')
const model = await LlamaModel.load({ path, contextLength: 256, sequences: 4, pages: 16 })
const prompt = model.tokenize('One day the fox met a dog and said')
const resident = () => process.memoryUsage.rss() / 1e6
let flat = true

async function measure(what, times, step) {
  const seen = []
  for (let tenth = 0; tenth < 10; tenth++) {
    for (let done = 0; done < times / 10;) done += await step()
    seen.push(resident())
  }
  const [first, ...rest] = seen
  const moved = Math.max(...rest.map((bytes) => Math.abs(bytes / first - 1)))
  flat &&= moved <= 0.05
  console.log(
    `${what}: ${seen.map((bytes) => bytes.toFixed(0)).join(' ')} MB, ${(100 * moved).toFixed(1)} %`,
  )
}

let seed = 0
const answer = async () => {
  const sampling = { temperature: 1, ignoreEos: true, seed: seed++, presencePenalty: 0.5 }
  const drawn = []
  for await (const token of generate(model, { tokens: prompt, maxTokens: 200, sampling }))
    drawn.push(token)
  return drawn.length
}
const answers = async () =>
  (await Promise.all([answer(), answer(), answer(), answer()])).reduce((sum, count) => sum + count)
await measure(`${tokens} sampled tokens`, tokens, answers)
await measure(`${prefills} prefills`, prefills, async () => {
  await prefill(model, {
    tokens: prompt,
    pages: { kv: Int32Array.of(0) },
    sampling: { temperature: 1 },
  })
  return 1
})
await model.dispose()
process.exitCode = flat ? 0 : 1
