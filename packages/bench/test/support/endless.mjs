// Two ranks without end; says when the first request is over.
import { runSynthetic } from '@kvx/bench'

await runSynthetic({
  ...{ model: 'llama-3.1-8b', layers: 1, tokens: 16, requests: 1_000_000 },
  ...{ backend: 'shm', from: import.meta.url },
  onProgress: (ended) => {
    if (ended === 1) process.send('going')
  },
})
