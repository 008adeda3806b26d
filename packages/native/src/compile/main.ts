import { styleText } from 'node:util'
import { compileAddon } from './compile.ts'
import { findPackage } from './find.ts'

const usage = `usage: npx @kvx/native build [PACKAGE…]

Compiles the addon of @kvx/native, or of each package named (@kvx/shm, or a folder), from the sources that it
brings, with the C++20 compiler of this machine (CXX names another). What was compiled is used before any
prebuilt file.`

/** @returns the exit status */
export async function main(args: readonly string[]): Promise<number> {
  const [command, ...names] = args
  if (command === '--help' || command === '-h') {
    console.log(usage)
    return 0
  }
  if (command !== 'build' || names.some((name) => name.startsWith('-'))) {
    console.error(usage)
    return 2
  }
  try {
    for (const name of names.length > 0 ? names : ['@kvx/native']) {
      console.log(await compileAddon(findPackage(name, process.cwd())))
    }
    return 0
  } catch (error) {
    console.error(
      `${styleText('red', 'kvx-native:')} ${error instanceof Error ? error.message : String(error)}`,
    )
    return 1
  }
}
