/** `kvx doctor`: one screen that says what can run here, what cannot, and what to do about it. */
import type { Command } from '../command.ts'
import { Flags } from '../flags.ts'
import { runToEnd } from '../lifetime.ts'
import { examineMachine } from '../machine.ts'
import { backendNames, examineBackends } from './backend.ts'

const args = {
  ...backendNames,
  json: { type: 'boolean', description: 'Print one JSON object instead' },
} as const

export const doctor: Command = {
  meta: {
    name: 'doctor',
    description: 'Say which backends can run on this machine, and what to do about the others',
  },
  args,
  main: async (rawArgs) => {
    const flags = Flags.parse(rawArgs, args, ['backend'])
    return runToEnd(async () => {
      const [backends, machine] = await Promise.all([
        examineBackends(flags.positionals),
        examineMachine(),
      ])
      if (flags.has('json')) {
        process.stdout.write(`${JSON.stringify({ backends, machine })}\n`)
        return 0
      }
      const lines: string[] = ['backends']
      for (const { name, version, library, available, reason, tried } of backends) {
        lines.push(`  ${available ? '✓' : '✗'} ${name.padEnd(10)} ${version ?? ''}`.trimEnd())
        if (library !== undefined) lines.push(`      ${library}`)
        for (const attempt of tried) lines.push(`      tried ${attempt.what}: ${attempt.reason}`)
        if (!available) lines.push(`      → ${reason}`)
      }
      lines.push('machine')
      for (const { name, good, value, advice } of machine) {
        lines.push(`  ${good ? '✓' : '–'} ${name.padEnd(14)} ${value}`)
        if (advice !== undefined) lines.push(`      → ${advice}`)
      }
      process.stdout.write(`${lines.join('\n')}\n`)
      return 0
    })
  },
}
