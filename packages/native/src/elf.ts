/** What can be told of a compiled addon from its file alone, before the loader of the system maps it. */

const machines: Readonly<Record<number, string>> = {
  3: 'ia32',
  21: 'ppc64',
  22: 's390x',
  40: 'arm',
  62: 'x64',
  183: 'arm64',
  243: 'riscv64',
  258: 'loong64',
}

/**
 * Why a file cannot be loaded by a Node of `architecture` (as in `process.arch`), or undefined. The system's own
 * loader does not look whether a file is whole: touching what is missing ends the process.
 */
export function elfProblem(file: Buffer, architecture: string): string | undefined {
  if (file.length === 0) return 'it is empty'
  if (file.subarray(0, 4).toString('latin1') !== '\x7fELF') return 'it is no ELF file'
  if (file.length < 64) return 'it is cut short'
  const [is64, little] = [file[4] === 2, file[5] === 1]
  const short = (at: number): number => (little ? file.readUInt16LE(at) : file.readUInt16BE(at))
  const machine = machines[short(18)] ?? `machine ${short(18)}`
  if (machine !== architecture) return `it is for ${machine}, and this Node is for ${architecture}`
  if (!is64 || !little) return `it is not laid out as ${architecture} wants it`
  // The table of sections is the last thing in a file.
  const end = file.readBigUInt64LE(40) + BigInt(short(58) * short(60))
  return BigInt(file.length) < end ? 'it is cut short' : undefined
}
