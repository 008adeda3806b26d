import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { tinyModel, writeGguf } from '../../llama/test/support/gguf.ts'
import { startWorker } from '../src/index.ts'

test.each([
  ['trained for 1,024 tokens', 1024, undefined, (3 * 1024) / 16],
  ['trained for 8,192 tokens', 8192, undefined, (3 * 2048) / 16],
  ['given a context of 100 tokens', 8192, 100, 3 * 7],
])(
  'a decode worker whose model is %s has the pages that its running requests can fill, and no more',
  async (_, context, contextLength, pages) => {
    const folder = await mkdtemp(join(tmpdir(), 'kvx-pool-'))
    onTestFinished(() => rm(folder, { recursive: true }))
    const model = join(folder, 'model.gguf')
    await writeFile(model, writeGguf(tinyModel({ context })))
    const worker = await startWorker({
      ...{ mode: 'decode', model, contextLength, maxRunningRequests: 3, token: 'x'.repeat(32) },
    })
    try {
      const metrics = await (await fetch(`${worker.url}/metrics`)).text()
      expect(metrics).toContain(`kvx_pages{state="free"} ${String(pages)}\n`)
    } finally {
      await worker.close()
    }
  },
)
