/** The deadlines and limits of docs/configuration.md. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { deadlineTable, limitTable } from '../../packages/core/dist/protocol/settings.js'
import { root } from '../lib/repository.mjs'
import { fixedLimits } from './fixed-limits.mjs'
import { code, codes, table } from './table.mjs'

const number = (value) => value.toLocaleString('en-US')

function amount(value, unit) {
  if (unit === 'bytes') {
    for (const [power, name] of [
      [30, 'GiB'],
      [20, 'MiB'],
      [10, 'KiB'],
    ]) {
      if (value >= 2 ** power && value % 2 ** power === 0)
        return `${number(value / 2 ** power)} ${name}`
    }
  }
  return unit === 'share' || unit === '' ? number(value) : `${number(value)} ${unit}`
}

const settings = (entries) => () =>
  table(
    ['name', 'default', 'side', 'per request', 'what it bounds', 'then', 'error'],
    Object.entries(entries).map(([name, setting]) => [
      code(name),
      amount(setting.default, setting.unit) +
        (setting.most === undefined ? '' : `, at most ${amount(setting.most, setting.unit)}`),
      setting.side,
      setting.perRequest ? 'yes' : 'no',
      setting.summary,
      setting.end,
      codes(setting.codes),
    ]),
  )

/** The value of `NAME = …` in a source file, a constant or a default, whose right side is a product. */
function constant(file, name) {
  const text = readFileSync(join(root, file), 'utf8')
  const product = new RegExp(`\\b${name} = ([\\d_* ]*\\d)(?=[,\\s])`).exec(text)?.[1]
  if (product === undefined) throw new Error(`${file} has no constant ${name} of numbers.`)
  return product
    .replaceAll('_', '')
    .split(' * ')
    .map((factor) => factor.split(' ** ').map(Number))
    .reduce((value, [base, exponent = 1]) => value * base ** exponent, 1)
}

export const settingTables = {
  deadlines: settings(deadlineTable),
  limits: settings(limitTable),
  'fixed-limits': () =>
    table(
      ['what', 'value', 'then', 'error'],
      fixedLimits.map(({ what, file, name, unit, end, errors }) => [
        what,
        amount(constant(file, name), unit),
        end,
        codes(errors),
      ]),
    ),
}
