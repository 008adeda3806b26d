import { expect, test } from 'vitest'
import { prefillTarget } from '../src/commands/router.ts'
import { backendOptions, protocolSettings, serve } from '../src/commands/serve.ts'
import { Flags } from '../src/flags.ts'
import { nearest, UsageError } from '../src/usage.ts'

const parse = (line: string, lists: readonly string[] = []) =>
  Flags.parse(
    line.split(' ').filter(Boolean),
    { ...serve.args, prefill: { type: 'string' } },
    lists,
  )

test('values are read in both spellings', () => {
  const flags = parse('--port 1 --page-size=32 --verify-kv')
  expect(flags.integer('port', 0, 65535)).toBe(1)
  expect(flags.integer('page-size', 1, 100)).toBe(32)
  expect(flags.has('verify-kv')).toBe(true)
  expect(flags.string('host')).toBeUndefined()
})

test("SGLang's spellings mean the same", () => {
  const flags = parse('--model-path a.gguf --disaggregation-transfer-backend mori')
  expect(flags.string('model')).toBe('a.gguf')
  expect(flags.string('transfer-backend')).toBe('mori')
  expect(() => parse('--model a --model-path b')).toThrow('--model is given more than once.')
})

test('a list takes several values after one flag and from repeated flags', () => {
  const flags = parse('--prefill a b --port 3 --prefill=c', ['prefill'])
  expect(flags.list('prefill')).toEqual(['a', 'b', 'c'])
})

test.each([
  ['--prot 1', 'There is no flag --prot: did you mean --port?'],
  ['--page_size 1', 'There is no flag --page_size: did you mean --page-size?'],
  ['--xyzzyxyzzy', 'There is no flag --xyzzyxyzzy: see --help.'],
  ['-p 1', 'There is no flag -p: see --help.'],
  ['--port', '--port needs a value.'],
  ['--verify-kv=1', "--verify-kv takes no value, but '1' was given."],
  ['stray', "'stray' is one argument too many."],
])('%s is a usage error', (line, message) => {
  expect(() => parse(line)).toThrow(new UsageError(message))
})

test.each(['x', '1.5', '70000', '-1', '1e3', ''])('a port of %j is a usage error', (text) => {
  const flags = parse(`--port=${text}`)
  expect(() => flags.integer('port', 0, 65535)).toThrow(
    new UsageError(`--port must be an integer from 0 to 65535, not '${text}'.`),
  )
})

test('the options of a backend are KEY=VALUE pairs whose numbers and truths are such', () => {
  const options = (text: string) => backendOptions(parse(`--transfer-backend-options ${text}`))
  expect(options('copyThreads=2,name=a=b,fast=true,slow=false,ratio=0.5')).toEqual({
    copyThreads: 2,
    name: 'a=b',
    fast: true,
    slow: false,
    ratio: 0.5,
  })
  expect(backendOptions(parse(''))).toEqual({})
  for (const text of ['copyThreads', '=1', 'a=1,,b=2', 'a=1,a=2']) {
    expect(() => options(text)).toThrow(UsageError)
  }
})

test('deadlines and limits are set by name, and only those that exist to what they can be', () => {
  expect(protocolSettings(parse('--deadline ping=200,peerSilent=1500 --limit requests=9'))).toEqual(
    {
      deadlines: { ping: 200, peerSilent: 1_500 },
      limits: { requests: 9 },
    },
  )
  expect(protocolSettings(parse(''))).toEqual({ deadlines: {}, limits: {} })
  for (const line of [
    '--deadline pong=1',
    '--deadline ping=soon',
    '--limit requests=0',
    '--limit quarantineShare=5',
  ]) {
    expect(() => protocolSettings(parse(line))).toThrow(UsageError)
  }
})

test('a prefill target is a URL with or without bootstrap port', () => {
  expect(prefillTarget('http://[::1]:1')).toEqual({ url: 'http://[::1]:1' })
  expect(prefillTarget('http://a:1,8998')).toEqual({ url: 'http://a:1', bootstrapPort: 8998 })
  for (const text of ['http://a:1,', 'http://a:1,0', 'http://a:1,65536', 'http://a:1,1,2']) {
    expect(() => prefillTarget(text)).toThrow(UsageError)
  }
})

test('the nearest word is suggested only when it is near', () => {
  expect(nearest('serv', ['serve', 'router', 'up'])).toBe('serve')
  expect(nearest('prefil', ['prefill', 'decode'])).toBe('prefill')
  expect(nearest('banana', ['serve', 'router', 'up'])).toBeUndefined()
})
