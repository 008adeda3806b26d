/** The process of trial.ts: loads a model, computes, reads and writes text with it, and tells how that went. */
import { isKvxError } from '@kvx/contract'
import { LlamaModel } from '../model.ts'
import { readModel } from './parts.ts'
import type { Task, Verdict } from './trial.ts'

/** Every character of one and two bytes, and every first byte of the longer ones. */
function text(): string {
  const codes = [
    ...Array.from({ length: 0x800 }, (_, i) => i),
    ...Array.from({ length: 16 }, (_, i) => 0x1000 * i + 0x801).filter((code) => code >> 11 !== 27),
    ...[0x10000, 0x40000, 0x80000, 0xc0000, 0x100000],
  ]
  return String.fromCodePoint(...codes)
}

async function attempt(task: Task): Promise<void> {
  const model = await LlamaModel.open(task, await readModel(task.path), '')
  model.tokenize(text())
  model.detokenize(Array.from({ length: model.vocabularySize }, (_, id) => id))
  await model.dispose()
}

function end(verdict: Verdict): void {
  process.send?.(verdict, undefined, undefined, () => process.exit(0))
}

process.once('message', (task: Task) => {
  attempt(task).then(
    () => {
      end({ kind: 'ok' })
    },
    (error: unknown) => {
      const code = isKvxError(error) ? error.code : 'ERR_KVX_MODEL'
      end({ kind: 'failed', code, message: error instanceof Error ? error.message : String(error) })
    },
  )
})
// Whoever asked is gone.
process.once('disconnect', () => process.exit(1))
