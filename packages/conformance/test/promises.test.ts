import { readFileSync } from 'node:fs'
import { promises } from '@kvx/conformance/run'
import { expect, test } from 'vitest'

const plain = (text: string): string =>
  text.replaceAll(/\s*\n\s*\*?\s*/g, ' ').replaceAll(/\s+/g, ' ')
const contract = readFileSync(new URL('../../contract/src/contract.ts', import.meta.url), 'utf8')

test.each(Object.entries(promises))(
  'the contract says the sentence of %s',
  (_, [where, sentence]) => {
    expect(plain(contract)).toContain(sentence)
    const [type = '', member] = where.split('.')
    expect(contract).toMatch(new RegExp(`export interface ${type}\\b`))
    if (member !== undefined) expect(contract).toMatch(new RegExp(`\\b${member}[?]?[:(]`))
  },
)
