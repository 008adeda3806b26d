/** One prompt or several, as text or as token ids. */
import * as v from 'valibot'
import type { Prompt } from './ask.ts'
import { refuse } from './check.ts'
import { tokenIds } from './fields.ts'

/** Of one request: each is a transfer of its own. */
const maxPrompts = 256

/** What clients of OpenAI send: a text, token ids, or a list of either. */
export const anyPrompts = (name: string) =>
  v.pipe(
    v.unknown(),
    v.transform((value): unknown =>
      Array.isArray(value) && value.length > 0 && typeof value[0] !== 'number' ? value : [value],
    ),
    v.array(
      v.union([v.string(), tokenIds('')], `${name} must be text or token ids, or a list of either`),
    ),
  )

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` */
export function checkPrompts(prompts: readonly Prompt[], samples: number): readonly Prompt[] {
  if (prompts.length === 0) throw refuse('The list of prompts is empty')
  if (prompts.length * samples > maxPrompts) {
    throw refuse(
      `The request asks for ${String(prompts.length * samples)} answers: ${String(maxPrompts)} are possible at a time`,
    )
  }
  prompts.forEach((prompt, index) => {
    if (prompt.length > 0) return
    const which = prompts.length === 1 ? 'The prompt' : `Prompt ${String(index)}`
    throw refuse(`${which} is empty: it must hold at least one token`)
  })
  return prompts
}
