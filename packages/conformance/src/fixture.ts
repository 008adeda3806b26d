/** What the author of an engine says about it. */
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { cwd, env } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { MemoryPlace } from './child/host.ts'

export type { MemoryPlace } from './child/host.ts'
export type { DeviceWorkModule } from './child/device-work.ts'

export interface Fixture {
  /**
   * Where the engine is: a package name, as it is seen from the folder in which the tests run, or the URL of a module that Node
   * can load (`new URL('../dist/index.js', import.meta.url)`). Its default export is the `Backend`.
   */
  readonly backend: string | URL
  /** Given to `open` and `probe`. Default: none. */
  readonly options?: Readonly<Record<string, unknown>> | undefined
  /** Beside the environment of the tests, for the processes of the engines. */
  readonly environment?: Readonly<Record<string, string>> | undefined
  /** Where the memory of the writers and of the owners is. Default: memory of the host on both sides. */
  readonly memory?:
    | { readonly writer?: MemoryPlace | undefined; readonly owner?: MemoryPlace | undefined }
    | undefined
  /** Of an engine that declares `after`: URL of a module (`DeviceWorkModule`) that makes the work of a device. */
  readonly deviceWork?: URL | undefined
}

export interface ConformanceOptions {
  /**
   * What is not run, and why: by the name of a suite (`after`), or of a check (`leaks: a link, a thousand times`). The reason is shown
   * with the results.
   */
  readonly skip?: Readonly<Record<string, string>> | undefined
}

/**
 * File URL of the fixture's module.
 * @throws Error when there is no such package
 */
export function moduleOf({ backend }: Fixture): string {
  if (backend instanceof URL) return backend.href
  if (backend.startsWith('file:')) return backend
  try {
    const path = createRequire(join(cwd(), 'tests.js')).resolve(backend)
    return pathToFileURL(path).href
  } catch (cause) {
    throw new Error(
      `The backend '${backend}' was not found from ${cwd()}. Name an installed package, or give the URL of its module: new URL('../dist/index.js', import.meta.url).`,
      { cause },
    )
  }
}

/** How a child process is started for one of the two sides. */
export function childArguments(fixture: Fixture, side: 'writer' | 'owner') {
  const init = {
    module: moduleOf(fixture),
    options: fixture.options ?? {},
    memory: fixture.memory?.[side] ?? { kind: 'cpu' },
    deviceWork: fixture.deviceWork?.href,
  }
  return { init: JSON.stringify(init), env: { ...env, ...fixture.environment } }
}

export const childProgram = (name: 'main' | 'stages'): string =>
  fileURLToPath(new URL(`./child/${name}.js`, import.meta.url))
