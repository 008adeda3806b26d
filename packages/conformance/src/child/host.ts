/** What a child process was started for: the engine's module and the options that the fixture gives. */
import { argv } from 'node:process'
import { isMainThread, workerData } from 'node:worker_threads'
import { isBackend, type Backend, type MemoryKind } from '@kvx/contract'

export interface MemoryPlace {
  readonly kind: MemoryKind
  readonly device?: number | undefined
}

export interface HostInit {
  /** File URL of the module whose default export is the backend. */
  readonly module: string
  readonly options: Record<string, unknown>
  readonly memory: MemoryPlace
  /** File URL of a module that makes the work of a device, for engines that wait for it. */
  readonly deviceWork?: string | undefined
}

export const init = JSON.parse(
  isMainThread ? (argv[2] ?? '{}') : (workerData as { init: string }).init,
) as HostInit

/** @throws Error when the default export is no backend */
export async function backend(): Promise<Backend> {
  const { default: found } = (await import(init.module)) as { default?: unknown }
  if (isBackend(found)) return found
  throw new Error(`The default export of ${init.module} is no Backend of this contract version.`)
}
