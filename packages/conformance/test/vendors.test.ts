// The vendors' libraries as they are: Mooncake over TCP on the loopback device, MORI on the fake libibverbs of packages/mori/test/fake-verbs.
import { join } from 'node:path'
import { env } from 'node:process'
import { engineConformance } from '@kvx/conformance'
import * as mooncake from '@kvx/mooncake'
import * as mori from '@kvx/mori'
import { installWheel } from '@kvx/vendor'
import { test } from 'vitest'
import { buildFakeVerbs } from '../../mori/test/fake-verbs/build.mjs'

const tellsNobody = (what: string) =>
  Object.fromEntries(
    [
      'a writer is told that its owner was killed',
      'a writer is told that its owner has closed its engine',
      'an owner is told that its writer was killed, in the middle of writes',
    ].map((check) => [`peer loss: ${check}`, `${what} does not say that a peer is gone`]),
  )

async function mooncakeIs(version: string): Promise<void> {
  const { folder } = await installWheel(mooncake.wheelSpec({ version }))
  const options = { hostname: '127.0.0.1', libraryPath: join(folder, 'mooncake', 'engine.so') }
  const skip = {
    ...tellsNobody('Mooncake'),
    'teardown: writing: a process that ends by process.exit':
      'seen to end with SIGSEGV in two of three runs: Mooncake still writes when the process exits',
  }
  engineConformance(`mooncake ${version}`, { backend: '@kvx/mooncake', options }, { skip })
}

async function moriIs(version: string): Promise<void> {
  const { folder } = await installWheel(mori.wheelSpec({ version }))
  const options = { host: '127.0.0.1', libraryPath: join(folder, 'mori', 'libmori_io.so') }
  const environment = { KVX_MORI_VERBS: 'fake', KVX_MORI_FAKE_VERBS: buildFakeVerbs() }
  const skip = {
    ...tellsNobody('MORI'),
    'connect: the address of one generation is refused as that of another':
      'a defect that is known: the driver does not compare the generation with that of the address',
    'leaks: a link, a thousand times':
      'a defect that is known: each link leaves two or three descriptors until its engine is closed',
  }
  const fixture = { backend: '@kvx/mori', environment, options }
  engineConformance(`mori ${version}`, fixture, { skip })
}

if (env.KVX_CONFORMANCE_VENDORS === 'all') {
  for (const version of ['0.3.13.post1', '0.3.12.post1']) await mooncakeIs(version)
  for (const version of ['1.2.4', '1.2.3', '1.2.2']) await moriIs(version)
} else {
  test.skip('Mooncake and MORI take minutes: KVX_CONFORMANCE_VENDORS=all runs them', () =>
    undefined)
}
