/**
 * `kvx doctor`: one screen that says what can run here, what cannot, and what to do about it. It ends with 1 when a backend that was
 * named cannot run: images and units ask it so.
 */
import type { Command } from '../command.ts'
import { Flags } from '../flags.ts'
import { runToEnd } from '../lifetime.ts'
import { examineMachine } from '../machine.ts'
import { backendNames, examineBackends, type BackendReport } from './backend.ts'

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
      const lacks = flags.positionals.length > 0 && backends.some(({ available }) => !available)
      const code = lacks ? 1 : 0
      if (flags.has('json')) {
        process.stdout.write(`${JSON.stringify({ backends, machine })}\n`)
        return code
      }
      const lines: string[] = ['backends']
      for (const { name, version, library, available, reason, tried, ...probe } of backends) {
        lines.push(`  ${available ? '✓' : '✗'} ${name.padEnd(10)} ${version ?? ''}`.trimEnd())
        if (library !== undefined) lines.push(`      ${library}`)
        for (const attempt of tried) lines.push(`      tried ${attempt.what}: ${attempt.reason}`)
        if (!available) lines.push(`      → ${reason}`)
        lines.push(...deviceLines(probe))
      }
      lines.push('machine')
      for (const { name, good, value, advice } of machine) {
        lines.push(`  ${good ? '✓' : '–'} ${name.padEnd(14)} ${value}`)
        if (advice !== undefined) lines.push(`      → ${advice}`)
      }
      process.stdout.write(`${lines.join('\n')}\n`)
      return code
    })
  },
}

function deviceLines({
  devices = [],
  devicesNote,
}: Pick<BackendReport, 'devices' | 'devicesNote'>): string[] {
  const lines = devicesNote === undefined ? [] : [`      ${devicesNote}`]
  for (const { kind, ordinal, uuid, name, facts, reaches, reason } of devices) {
    const others = reaches.length === 0 ? '' : `, reaches ${reaches.join(', ')}`
    lines.push(
      `      ${reason === undefined ? '✓' : '✗'} ${kind}:${String(ordinal)} ${name} (${facts}${others}) ${uuid}`,
    )
    if (reason !== undefined) lines.push(`          → ${reason}`)
  }
  return lines
}
