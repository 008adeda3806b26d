import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { supportedVersions, wheelSpec } from '@kvx/mori'
import { installWheel } from '@kvx/vendor'
import { expect, test } from 'vitest'

const run = promisify(execFile)
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url))

/** MORI's headers and libraries, which the installed backend does not need. */
async function sources(version: string): Promise<string> {
  const spec = { ...wheelSpec({ version }), name: 'mori-sources' }
  const files = ['mori/_jit-sources/', 'mori/libmori_io.so', 'mori/libmori_application.so']
  return (await installWheel({ ...spec, files })).folder
}

const ends = [supportedVersions.at(0) ?? '', supportedVersions.at(-1) ?? '']

test.each(ends)(
  'the declarations are those of the headers of MORI %s',
  { timeout: 180_000 },
  async (version) => {
    const headers = `${await sources(version)}/mori/_jit-sources`
    const includes = ['include', '3rdparty/spdlog/include', '3rdparty/msgpack-c/include']
    await run(process.env.CXX ?? 'c++', [
      ...['-std=gnu++20', '-fsyntax-only', '-w', '-D__HIP_PLATFORM_AMD__', '-DMSGPACK_NO_BOOST'],
      ...[`-I${here('../native')}`, `-I${here('abi')}`],
      ...includes.flatMap((folder) => ['-isystem', `${headers}/${folder}`]),
      here('abi/check.cc'),
    ])
  },
)

test.each(ends)(
  'the stand-ins hold every function that MORI %s takes from ROCm',
  { timeout: 180_000 },
  async (version) => {
    const folder = `${await sources(version)}/mori`
    const symbols = async (flag: string, ...files: string[]): Promise<string[]> => {
      const { stdout } = await run('nm', ['-D', flag, ...files])
      return [...stdout.matchAll(/ [UTW] ((?:hip|hsa_)\S+)/g)].map(([, name = '']) =>
        name.replace('@@', '@'),
      )
    }
    const needed = await symbols(
      '--undefined-only',
      `${folder}/libmori_io.so`,
      `${folder}/libmori_application.so`,
    )
    const built = here('../build/Release')
    const present = await symbols(
      '--defined-only',
      `${built}/libamdhip64.so.7`,
      `${built}/libhsa-runtime64.so.1`,
    )
    expect(needed.length).toBeGreaterThan(40)
    expect(new Set(present)).toEqual(new Set([...present, ...needed]))
  },
)

test('the addon is linked with nothing of MORI, ROCm or libibverbs', async () => {
  const { stdout } = await run('readelf', ['-d', here('../build/Release/kvx_mori.node')])
  const needed = [...stdout.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name)
  expect(needed).not.toEqual([])
  for (const name of needed)
    expect(name).toMatch(/^(libc|libm|libdl|libpthread|libstdc\+\+|libgcc_s|ld-linux)/)
})
