/** Tokenizes long texts, in a process of its own with nothing but the vocabulary. */
import { llamaCpp } from '../binding.ts'
import type { Answer, Order } from './aside.ts'
import { tokenizerOf } from './native.ts'

// Ends with the process that it works for, however that ends, and not with a key pressed for both.
process.on('disconnect', () => {
  process.exit()
})
process.on('SIGINT', () => undefined)

const answer = (value: Answer) => process.send?.(value)

const { getLlama, LlamaLogLevel } = await llamaCpp()
const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  progressLogs: false,
  maxThreads: 1,
  logLevel: LlamaLogLevel.disabled,
})
const weights = await llama.loadModel({
  modelPath: process.argv[2] ?? '',
  vocabOnly: true,
  gpuLayers: 0,
})
const tokenize = tokenizerOf(weights)
process.on('message', ({ text, enough }: Order) => {
  answer({ tokens: tokenize(text, enough) })
})
answer({ vocabulary: weights.fileInfo.metadata.tokenizer.ggml.tokens.length })
