/** Programs that look for a mutant, each in a process of its own: modules are loaded once in a process. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/**
 * @param request the program's only argument, as JSON
 * @param flags of Node
 * @throws Error when the process dies, or has not ended after ten minutes
 */
export async function answerOf<Answer>(
  program: string,
  request: object,
  flags: readonly string[] = [],
): Promise<Answer> {
  const args = [...flags, program, JSON.stringify(request)]
  const { stdout } = await promisify(execFile)(process.execPath, args, {
    timeout: 600_000,
    maxBuffer: 1 << 26,
  })
  return JSON.parse(stdout) as Answer
}

/** @throws Error for a violation that is none: what does not even run proves nothing of the checks */
export function mustHaveRun({ text }: { readonly text: string }): void {
  if (/^(Reference|Type|Syntax)Error\b/.test(text))
    throw new Error(`the mutant does not run: ${text}`)
}
