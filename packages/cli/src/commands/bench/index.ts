/** `kvx bench`: what engines move, and what that does to a model behind them. */
import type { Command } from '../../command.ts'
import { accuracy } from './accuracy.ts'
import { compare } from './compare.ts'
import { load } from './load.ts'
import { trace } from './trace.ts'
import { transfer } from './transfer.ts'

export const bench: Command = {
  meta: { name: 'bench', description: 'Measure and compare engines, alone and behind a model' },
  args: {},
  subCommands: { accuracy, compare, load, trace, transfer },
}
