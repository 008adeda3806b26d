import { fork, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { silentLog, type PeerAddress, type TransferEngine } from '@kvx/contract'
import mooncake, { wheelSpec, type MooncakeOptions } from '@kvx/mooncake'
import { installWheel } from '@kvx/vendor'
import { freeze } from '../../native/test/freeze.ts'

/** Engines of tests meet on the loopback device. */
export const loopback: MooncakeOptions = { hostname: '127.0.0.1' }

export function newGeneration(): string {
  return randomBytes(16).toString('hex')
}

/** The vendor's wheel, downloaded once per machine. */
export async function installMooncake(): Promise<string> {
  return (await installWheel(wheelSpec())).folder
}

export function openEngine(options: MooncakeOptions = loopback): Promise<TransferEngine> {
  return mooncake.open(options, { generation: newGeneration(), log: silentLog })
}

/** Another process that owns memory and an engine. */
export class Peer implements AsyncDisposable {
  readonly process: ChildProcess
  readonly size: number
  #number = 0

  constructor(size: number) {
    this.size = size
    this.process = fork(fileURLToPath(new URL('peer-process.mjs', import.meta.url)), [], {
      execArgv: [],
      serialization: 'advanced',
    })
  }

  /** Opens an engine in it, over the same memory each time. */
  async open(options: MooncakeOptions = loopback): Promise<PeerAddress> {
    const parameters = { options, generation: newGeneration(), size: this.size }
    const { generation, address, regions } = (await this.ask('open', parameters)) as {
      generation: string
      address: string
      regions: string[]
    }
    return {
      generation,
      address: Buffer.from(address, 'base64'),
      regions: regions.map((region) => Buffer.from(region, 'base64')),
    }
  }

  ask(name: string, parameters: Record<string, unknown> = {}): Promise<unknown> {
    const number = ++this.#number
    return new Promise((resolve, reject) => {
      const answered = (message: {
        number: number
        result?: unknown
        error?: { message: string }
      }): void => {
        if (message.number !== number) return
        end()
        if (message.error === undefined) resolve(message.result)
        else reject(new Error(message.error.message))
      }
      const died = (code: number | null, signal: string | null): void => {
        end()
        reject(new Error(`The peer process ended: ${String(code ?? signal)}`))
      }
      const end = (): void => {
        this.process.off('message', answered).off('exit', died)
      }
      this.process.on('message', answered).on('exit', died)
      this.process.send({ number, name, parameters })
    })
  }

  freeze(): Promise<void> {
    return freeze(this.process.pid!)
  }

  signal(signal: NodeJS.Signals): void {
    this.process.kill(signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return
    const exited = once(this.process, 'exit')
    this.process.kill('SIGKILL')
    await exited
  }
}
