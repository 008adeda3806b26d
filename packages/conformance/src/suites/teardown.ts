/** A process that ends, whatever its engines are doing. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { execPath } from 'node:process'
import { childArguments, childProgram, type Fixture } from '../fixture.ts'
import { must, within } from '../kit/promises.ts'
import { stageNames } from '../kit/stage-names.ts'
import { check, type Suite } from '../suite.ts'

const longestMs = 30_000

async function mustEnd(fixture: Fixture, stage: string, how: string): Promise<void> {
  const { init, env } = childArguments(fixture, 'writer')
  const program = spawn(execPath, [childProgram('stages'), init, stage, how], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [program.stdout, program.stderr])
    stream.on('data', (text: Buffer) => (output += text.toString()))
  try {
    const what = `A process that ends ${how} when it is ${stage}`
    const ended = once(program, 'close') as Promise<[number | null, string | null]>
    const [code, signal] = await within(longestMs, ended, 'anywhere', what)
    must(
      code === 0 && output.includes(`reached ${stage}`),
      'anywhere',
      `${what} ended with ${signal ?? `code ${String(code)}`}. It wrote: ${output.slice(-1000)}`,
    )
  } finally {
    program.kill('SIGKILL')
  }
}

export const teardown: Suite = {
  name: 'teardown',
  checks: [
    ...stageNames.flatMap((stage) =>
      ['by process.exit', 'with its worker'].map((how) =>
        check(`${stage}: a process that ends ${how}`, ({ fixture }) =>
          mustEnd(fixture, stage, how),
        ),
      ),
    ),
    check('closed: a process that ends because nothing is left to do', ({ fixture }) =>
      mustEnd(fixture, 'closed', 'by itself'),
    ),
  ],
}
