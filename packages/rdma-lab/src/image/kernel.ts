/** What is read from the binary files of a kernel. */

const xzMagic = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0])

/**
 * The compressed kernel inside a bzImage, in xz's format. Unpacked beforehand it boots ten seconds sooner: the guest would unpack
 * it by emulated instructions. The offsets are those of the kernel's boot protocol (Documentation/arch/x86/boot.rst).
 *
 * @throws Error when it is no bzImage, or compressed otherwise
 */
export function compressedKernel(image: Buffer): Buffer {
  if (image.length < 0x250 || image.toString('latin1', 0x202, 0x206) !== 'HdrS')
    throw new Error('it is no bzImage')
  const setupSectors = image.readUInt8(0x1f1) || 4
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248)
  // The last four bytes are the size of what comes out.
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c) - 4)
  if (!payload.subarray(0, xzMagic.length).equals(xzMagic))
    throw new Error('the kernel in it is not compressed by xz')
  return payload
}

/** Whether a program for x86-64 runs without a dynamic loader: it names none in its program headers. */
export function isStatic(elf: Buffer): boolean {
  const interpreter = 3
  const start = Number(elf.readBigUInt64LE(32))
  const size = elf.readUInt16LE(54)
  const count = elf.readUInt16LE(56)
  return Array.from({ length: count }, (_, i) => elf.readUInt32LE(start + i * size)).every(
    (type) => type !== interpreter,
  )
}

/**
 * Files of the modules `names` and of all that they need, from the text of a modules.dep, whose lines are
 * `kernel/a.ko: kernel/b.ko kernel/c.ko`; and the lines for them.
 *
 * @throws Error that names a module which is not there
 */
export function withNeeds(
  modulesDep: string,
  names: readonly string[],
): { files: string[]; modulesDep: string } {
  const needs = new Map(
    modulesDep.split('\n').flatMap((line) => {
      const [file, others] = line.split(':')
      return file && others !== undefined
        ? [[file, others.split(' ').filter((other) => other !== '')] as const]
        : []
    }),
  )
  const wanted = names.map((name) => {
    const file = [...needs.keys()].find((path) => path.endsWith(`/${name}.ko`))
    if (file === undefined) throw new Error(`it has no module ${name}`)
    return file
  })
  const files = new Set<string>()
  const add = (file: string): void => {
    if (files.has(file)) return
    files.add(file)
    needs.get(file)?.forEach(add)
  }
  wanted.forEach(add)
  const lines = [...files].map((file) => `${file}: ${(needs.get(file) ?? []).join(' ')}\n`)
  return { files: [...files], modulesDep: lines.join('') }
}
