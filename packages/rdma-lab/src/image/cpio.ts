/** A cpio archive ("newc"), the format in which Linux takes its first file system. */

export interface Entry {
  /** Without a leading slash. */
  readonly path: string
  /** File type and permissions, as in `stat`. */
  readonly mode: number
  readonly content?: Uint8Array
}

export const folderMode = 0o040755
export const fileMode = 0o100644
export const programMode = 0o100755

/** `path` and the folders above it, the uppermost first. */
export function foldersOf(path: string): string[] {
  const parts = path.split('/')
  return parts.map((_, i) => parts.slice(0, i + 1).join('/'))
}

/** Folders must come before what is in them. Owner of all is root, whoever makes the archive. */
export function cpio(entries: readonly Entry[]): Buffer {
  const end = { path: 'TRAILER!!!', mode: 0 }
  return Buffer.concat([...entries, end].flatMap((entry, i) => record(entry, i + 1)))
}

function record({ path, mode, content = new Uint8Array() }: Entry, inode: number): Buffer[] {
  const name = Buffer.from(`${path}\0`)
  const numbers = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0]
  const header = `070701${numbers.map((number) => number.toString(16).padStart(8, '0')).join('')}`
  return [
    padded(Buffer.concat([Buffer.from(header), name])),
    padded(Buffer.from(content.buffer, content.byteOffset, content.byteLength)),
  ]
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)])
}
