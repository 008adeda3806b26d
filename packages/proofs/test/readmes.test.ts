/** The examples of the packages' READMEs are run as they stand: a `js` block as a program, a `sh` block of `kvx` as its commands. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

const packages = join(import.meta.dirname, '../..')
const kvx = join(packages, 'cli/bin/kvx.js')
const cache =
  process.env.KVX_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'kvx')
const hasModel = existsSync(join(cache, 'models'))

const blocksOf = (name: string, language: string) => {
  const readme = readFileSync(join(packages, name, 'README.md'), 'utf8')
  const blocks = readme.matchAll(new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\`$`, 'gm'))
  return [...blocks].map(([, code = '']) => code)
}

function run(...args: readonly string[]): string {
  const { stdout, stderr, status } = spawnSync(process.execPath, args, {
    ...{ encoding: 'utf8', timeout: 100_000 },
  })
  expect({ stderr: status === 0 ? '' : stderr, status }).toEqual({ stderr: '', status: 0 })
  return stdout
}

// Where the packages of kvx are found as they are from a program of a user.
const folder = join(packages, '../node_modules/.cache/kvx/readmes')
beforeAll(() => mkdirSync(folder, { recursive: true }))
afterAll(() => {
  rmSync(folder, { recursive: true })
})

/** What each prints at its end; those of bench have a test of their own. */
const ends: Record<string, string> = {
  // What these print depends on the machine.
  ...{ native: '', vendor: '' },
  core: '{ kv: 43, swa: 5 } { free: 21, leased: 43, quarantined: 0 } 16\n',
  shm: 'true says whether there are GPUs\nshm\n',
  server: '4 tokens by shm\n',
}

test.for(Object.entries(ends))(
  'the example of @kvx/%s runs as it is',
  { timeout: 120_000 },
  ([name, end], { skip }) => {
    skip(name === 'server' && !hasModel, 'the model is not here: npm run setup fetches it')
    const blocks = blocksOf(name, 'js')
    expect(blocks).toHaveLength(1)
    const file = join(folder, `${name}.mjs`)
    writeFileSync(file, blocks[0] ?? '')
    const printed = run(file)
    expect(printed.slice(printed.length - end.length)).toBe(end)
  },
)

test('every block of JavaScript in a README is one that is run', () => {
  const withBlocks = readdirSync(packages).filter(
    (name) => existsSync(join(packages, name, 'README.md')) && blocksOf(name, 'js').length > 0,
  )
  expect(withBlocks.sort()).toEqual(['bench', ...Object.keys(ends)].sort())
})

test('every published package has a README', () => {
  const without = readdirSync(packages).filter((name) => {
    const manifest = join(packages, name, 'package.json')
    return existsSync(manifest) && !existsSync(join(packages, name, 'README.md'))
  })
  expect(without).toEqual([])
})

test('the commands that the README of kvx shows do what they say', () => {
  const lines = blocksOf('cli', 'sh').flatMap((block) => block.trim().split('\n'))
  expect(lines.length).toBeGreaterThan(2)
  for (const line of lines) {
    const [command, ...words] = line.split(' ')
    expect(command).toBe('kvx')
    run(kvx, ...words)
  }
})
