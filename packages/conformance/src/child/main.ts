/** The program of the processes in which engines run: it does what the test says, call by call. */
import { on, send } from './channel.ts'
import { engineCommands } from './engine.ts'
import { leakCommands } from './leaks.ts'
import { memoryCommands } from './memory.ts'
import { processCommands } from './process.ts'
import { transferCommands } from './transfers.ts'

export const commands = {
  ...engineCommands,
  ...leakCommands,
  ...memoryCommands,
  ...processCommands,
  ...transferCommands,
}
export type Commands = typeof commands

type Any = (...args: readonly unknown[]) => unknown

async function answer(id: number, name: string, args: readonly unknown[]): Promise<void> {
  try {
    send({ id, value: await (commands as unknown as Record<string, Any>)[name]!(...args) })
  } catch (error) {
    const { name, code, message, stack } = Object(error) as Error & { code?: unknown }
    send({ id, error: { name, code: String(code), message: message || String(error), stack } })
  }
}

process.on('unhandledRejection', (reason) => {
  send({ unhandled: String(reason) })
})
on(({ id, name, args }) => void answer(id, name, args))
