import { execFileSync } from 'node:child_process'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readArguments } from '../src/arguments.ts'
import { Ending } from '../src/guest/ending.ts'
import { quoted } from '../src/guest/job.ts'
import { qemuArguments } from '../src/guest/qemu.ts'
import { cpio, fileMode, foldersOf } from '../src/image/cpio.ts'
import { compressedKernel, isStatic, withNeeds } from '../src/image/kernel.ts'
import { whyNot } from '../src/needs.ts'

const mark = 'aab-aac'

test('what stands before the mark comes out whole, however the stream is cut', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', 'b', '-', 'c', '\n') }),
      fc.array(fc.nat(60)),
      (text, cuts) => {
        fc.pre(!`${text}${mark}`.slice(0, -1).includes(mark))
        const stream = Buffer.from(`${text}${mark}and what nobody shall see`)
        const places = [0, ...cuts.sort((a, b) => a - b), stream.length]
        const ending = new Ending(mark)
        let seen = ''
        let over = false
        for (const [i, place] of places.slice(1).entries()) {
          const { bytes, ended } = ending.take(stream.subarray(places[i], place))
          seen += bytes.toString()
          if ((over = ended)) break
        }
        expect([seen, over]).toEqual([text, true])
      },
    ),
  )
})

test('only what may be the beginning of the mark is held back', () => {
  const ending = new Ending(mark)
  expect(ending.take(Buffer.from('line\naa')).bytes.toString()).toBe('line\n')
  expect(ending.take(Buffer.from('x')).bytes.toString()).toBe('aax')
})

test('a quoted word is one word of a shell, and unchanged', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const word = text.replaceAll('\0', '')
      const printed = execFileSync('sh', ['-c', `printf %s ${quoted(word)}`])
      expect(printed.equals(Buffer.from(word))).toBe(true)
    }),
    { numRuns: 50 },
  )
})

test('the options end where the command begins', () => {
  expect(readArguments(['-t', '9', '-w', 'a', '-w', 'b', 'ls', '-t', '--help'])).toMatchObject({
    command: ['ls', '-t', '--help'],
    limitSeconds: 9,
    writable: ['a', 'b'],
  })
  expect(readArguments(['--', '-x'])).toMatchObject({ command: ['-x'], pair: undefined })
  expect(readArguments(['--netem', 'loss 1%', 'ls'])).toMatchObject({ pair: { netem: 'loss 1%' } })
  expect(readArguments(['-h'])).toBe('help')
})

test.each([
  [['-t', '3.5', 'ls'], '--time must be a positive integer, got 3.5.'],
  [['-m', '0', 'ls'], '--memory must be a positive integer, got 0.'],
  [['-v'], 'There is no COMMAND to run.'],
  [['--cpu', '2', 'ls'], "Unknown option '--cpu'"],
])('%j is refused with the reason', (argv, message) => {
  expect(() => readArguments(argv)).toThrow(message)
})

test('a comma in the name of a folder does not end an option of QEMU', () => {
  const image = { kernel: 'k', files: 'f', release: '6', modules: 'm' }
  const machine = { image, initramfs: 'i', console: 'c', cpus: 1, memoryMiB: 1, side: undefined }
  expect(qemuArguments({ ...machine, writable: ['/a,b'] })).toContain(
    'local,path=/a,,b,mount_tag=writable0,security_model=none,multidevs=remap',
  )
})

test('a module comes with all that it needs, and one that is missing is named', () => {
  const text =
    'kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/d/c.ko\nkernel/d/c.ko:\nkernel/e.ko:\n'
  expect(withNeeds(text, ['a']).files).toEqual(['kernel/a.ko', 'kernel/b.ko', 'kernel/d/c.ko'])
  expect(withNeeds(text, ['b']).modulesDep).toBe('kernel/b.ko: kernel/d/c.ko\nkernel/d/c.ko: \n')
  expect(() => withNeeds(text, ['rdma_rxe'])).toThrow('it has no module rdma_rxe')
})

test('an archive is of padded records, headed by what the kernel looks for', () => {
  const archive = cpio([{ path: 'a/b', mode: fileMode, content: Buffer.from('12345') }])
  expect(archive.toString('latin1', 0, 14)).toBe('07070100000001')
  expect(archive.toString('latin1', 110, 113)).toBe('a/b')
  expect(archive.indexOf('12345') % 4).toBe(0)
  expect(archive.includes('TRAILER!!!\0')).toBe(true)
  expect(archive.length % 4).toBe(0)
  expect(foldersOf('a/b/c')).toEqual(['a', 'a/b', 'a/b/c'])
})

test('the kernel in a bzImage is found by its header, and another file is refused', () => {
  const image = Buffer.alloc(4096)
  image.write('HdrS', 0x202)
  image.writeUInt8(1, 0x1f1)
  image.writeUInt32LE(16, 0x248)
  image.writeUInt32LE(20, 0x24c)
  const payload = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, ...Array<number>(10).fill(7)])
  payload.copy(image, 1024 + 16)
  expect(compressedKernel(image).equals(payload)).toBe(true)
  image[1024 + 16] = 0x28
  expect(() => compressedKernel(image)).toThrow('not compressed by xz')
  expect(() => compressedKernel(Buffer.alloc(4096))).toThrow('no bzImage')
})

test('a program that names a dynamic loader is not static', () => {
  const elf = Buffer.alloc(64 + 2 * 56)
  elf.writeBigUInt64LE(64n, 32)
  elf.writeUInt16LE(56, 54)
  elf.writeUInt16LE(2, 56)
  elf.writeUInt32LE(1, 64)
  expect(isStatic(elf)).toBe(true)
  elf.writeUInt32LE(3, 64 + 56)
  expect(isStatic(elf)).toBe(false)
})

test.runIf(process.arch === 'x64')('where apt-get is missing, that is said', () => {
  expect(whyNot({ PATH: '/nowhere' })).toContain('apt-get')
})
