import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/** Something that was looked at, and why it cannot be used. */
export interface Attempt {
  readonly what: string
  readonly reason: string
}

/** Attempts as part of a sentence: "python3: it has no package mori; …". */
export function reasons(tried: readonly Attempt[]): string {
  return tried.map(({ what, reason }) => `${what}: ${reason}`).join('; ')
}

/**
 * The folder of a package of the python3 on the PATH, which is asked without importing the package. What is missing is
 * added to `tried`.
 */
export async function pythonPackage(name: string, tried: Attempt[]): Promise<string | undefined> {
  const question = `import importlib.util as u; s = u.find_spec('${name}'); print(next(iter(s.submodule_search_locations), '') if s else '')`
  const answer = await promisify(execFile)('python3', ['-c', question], { timeout: 10_000 }).then(
    ({ stdout }) => stdout.trim(),
    () => '', // no python3, or one that cannot answer
  )
  if (answer === '') tried.push({ what: 'python3', reason: `it has no package ${name}` })
  return answer || undefined
}
