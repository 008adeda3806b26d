import { expect, test } from 'vitest'
import { httpOptions } from '../src/command.ts'
import { prefillTarget, prefillTargets } from '../src/commands/router.ts'
import {
  backendOptions,
  engineFlags,
  engineOptions,
  prefixCache,
  protocolSettings,
  serve,
} from '../src/commands/serve.ts'
import { foreignFlags } from '../src/foreign.ts'
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

test.each(Object.entries(foreignFlags))(
  "SGLang's --%s is refused by name, with what to do instead",
  (name, instead) => {
    expect(() => parse(`--${name} 1`)).toThrow(
      new UsageError(`--${name} of SGLang is no flag here: ${instead}.`),
    )
  },
)

test('the devices of SGLang are an option of the transfer backend', () => {
  const options = (line: string) => engineOptions(Flags.parse(line.split(' '), engineFlags))
  expect(options('--disaggregation-ib-device mlx5_0,mlx5_1')).toEqual({
    devices: ['mlx5_0', 'mlx5_1'],
  })
  expect(() => options('--disaggregation-ib-device {"0":"mlx5_0"}')).toThrow('names of devices')
  expect(() =>
    options('--disaggregation-ib-device a --transfer-backend-options devices=b'),
  ).toThrow('give one')
})

test('the radix cache of decode is on, and cannot be asked for and turned off at once', () => {
  const asked = (line: string) => prefixCache(Flags.parse(line.split(' '), engineFlags))
  expect(asked('--disaggregation-decode-enable-radix-cache')).toBe(true)
  expect(asked('--disable-radix-cache')).toBe(false)
  expect(() => asked('--disable-radix-cache --disaggregation-decode-enable-radix-cache')).toThrow(
    'exclude each other',
  )
})

test("prefill workers may be written as SGLang's router takes them", () => {
  expect(
    prefillTargets(['http://a', '8998', 'http://b', 'none', 'http://c,1', 'http://d']),
  ).toEqual([
    { url: 'http://a', bootstrapPort: 8998 },
    { url: 'http://b' },
    { url: 'http://c', bootstrapPort: 1 },
    { url: 'http://d' },
  ])
  expect(() => prefillTargets(['8998'])).toThrow("not '8998'")
  expect(() => prefillTargets(['http://a,1', '2'])).toThrow("not '2'")
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

test('who may ask over HTTP is read from flags, and the key from the environment too', () => {
  expect(httpOptions(parse(''), {})).toEqual({ allowedHosts: [], allowedOrigins: [] })
  const line =
    '--api-key k1 --allowed-hosts kvx.example,[::2] --allowed-origins https://a.example:8080,* --keep-alive-timeout 7.5'
  expect(httpOptions(parse(line), { KVX_API_KEY: 'k2' })).toEqual({
    apiKey: 'k1',
    allowedHosts: ['kvx.example', '[::2]'],
    allowedOrigins: ['https://a.example:8080', '*'],
    keepAliveMs: 7_500,
  })
  expect(httpOptions(parse(''), { KVX_API_KEY: 'k2' }).apiKey).toBe('k2')
})

test.each([
  ['--allowed-hosts http://a.example', "--allowed-hosts: 'http://a.example' is no host name."],
  ['--allowed-hosts a.example:80', "--allowed-hosts: 'a.example:80' is no host name."],
  [
    '--allowed-origins a.example',
    "--allowed-origins: 'a.example' is no origin, such as https://chat.example.",
  ],
  [
    '--allowed-origins https://a.example/path',
    "--allowed-origins: 'https://a.example/path' is no origin, such as https://chat.example.",
  ],
  ['--api-key=', '--api-key is set but empty.'],
  ['--api-key=schlüssel', '--api-key must be letters, digits and signs of ASCII, without spaces.'],
  ['--keep-alive-timeout 0', "--keep-alive-timeout must be a number from 1 to 86400, not '0'."],
])('%s says what is wrong, and never the key', (line, message) => {
  expect(() => httpOptions(parse(line), {})).toThrow(new UsageError(message))
})

test('a key that is set but empty is no key that everybody has', () => {
  expect(() => httpOptions(parse(''), { KVX_API_KEY: '' })).toThrow('KVX_API_KEY is set but empty.')
})
