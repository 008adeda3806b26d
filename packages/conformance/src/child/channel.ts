/** The channel to the test. */
import process, { exit } from 'node:process'

export interface Request {
  readonly id: number
  readonly name: string
  readonly args: readonly unknown[]
}

export type Reply =
  | { readonly id: number; readonly value: unknown }
  | {
      readonly id: number
      readonly error: { name: string; code: string; message: string; stack: string | undefined }
    }
  | { readonly unhandled: string }

export function send(reply: Reply): void {
  process.send?.(reply)
}

export function on(listener: (request: Request) => void): void {
  process.on('message', listener)
  // Threads of an engine may keep the process alive when nobody talks to it any more.
  process.on('disconnect', () => exit(0))
}
