/** Is a pair whose caches would not mean the same refused when it meets, with what differs? */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { tinyModel, writeGguf, type ModelShape } from '../../llama/test/support/gguf.ts'
import { patience, post, Process } from './support/cluster.ts'

const longRope: ModelShape = { architecture: 'phi3', originalContext: 512 }
const processes: Process[] = []
let folder = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-other-'))
})

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
  await rm(folder, { recursive: true, force: true })
}, patience)

async function worker(mode: string, name: string, file: Buffer, context: number): Promise<Process> {
  const path = join(folder, `${name}.gguf`)
  await writeFile(path, file)
  const started = await Process.start([
    ...['serve', '--disaggregation-mode', mode, '--port', '0', '--model', path],
    ...['--disaggregation-bootstrap-port', '0', '--context-length', String(context)],
  ])
  processes.push(started)
  return started
}

/** The answer of decode to a request that prefill gets at the same time. */
async function ask(prefill: Process, decode: Process, room: number): Promise<[number, string]> {
  const body = {
    ...{ prompt: [5, 6, 7, 8], max_tokens: 2, bootstrap_room: room },
    ...{ bootstrap_host: '127.0.0.1', bootstrap_port: prefill.bootstrapPort },
  }
  const ended = new AbortController()
  const other = post(prefill.url, body, ended.signal).catch(() => undefined)
  const response = await post(decode.url, body)
  const text = await response.text()
  ended.abort()
  await other
  return [response.status, text]
}

test('another model of the same shape, and a damaged copy, are refused with both digests', async () => {
  const file = writeGguf(tinyModel({ seed: 1 }))
  const damaged = Buffer.from(file)
  damaged[file.length - 77] = (damaged.at(-77) ?? 0) ^ 0x10
  const [prefill, ...decodes] = await Promise.all([
    worker('prefill', 'one', file, 128),
    worker('decode', 'other', writeGguf(tinyModel({ seed: 2 })), 128),
    worker('decode', 'damaged', damaged, 128),
  ])
  for (const [i, decode] of decodes.entries()) {
    const [status, text] = await ask(prefill, decode, i)
    expect(status).toBe(502)
    expect(text).toContain('ERR_KVX_LAYOUT_MISMATCH')
    expect(text).toMatch(
      /The caches differ in the model: prefill has [0-9a-f]{12}…, decode has [0-9a-f]{12}…\. Load the same model on both sides/,
    )
  }
})

test('context lengths that choose other RoPE factors are refused by name; others are served', async () => {
  const file = writeGguf(tinyModel(longRope))
  const [prefill, short, long] = await Promise.all([
    worker('prefill', 'p', file, 500),
    worker('decode', 's', file, 300),
    worker('decode', 'l', file, 600),
  ])
  const [status, text] = await ask(prefill, long, 1)
  expect(status).toBe(502)
  expect(text).toContain(
    "The caches differ in the setting 'RoPE factors': prefill has short, as the context length is at most 511 tokens, decode has long, as the context length is above 511 tokens.",
  )
  const [fine, answer] = await ask(prefill, short, 2)
  expect(fine).toBe(200)
  expect(answer).toContain('"choices"')
})
