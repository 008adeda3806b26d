/** Work of a device that is over when the test says so; what it is only the fixture knows. */
import type { DeviceWork } from '@kvx/contract'
import { init } from './host.ts'

/** What the module `deviceWork` of a fixture exports. */
export interface DeviceWorkModule {
  /** Gives a device work that is not over, and answers its handle. */
  start(): DeviceWork | Promise<DeviceWork>
  /** Lets all of it be over. */
  finish(): void | Promise<void>
}

async function load(): Promise<DeviceWorkModule> {
  if (init.deviceWork === undefined) throw new Error('The fixture names no module deviceWork.')
  return (await import(init.deviceWork)) as DeviceWorkModule
}

export const startWork = async (): Promise<DeviceWork> => (await load()).start()
export const finishWork = async (): Promise<void> => (await load()).finish()
