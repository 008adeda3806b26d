import type { PublishedWheel } from './pip.ts'

/** A vendor's library as it is published: one exact wheel file of one exact version. */
export interface WheelSpec extends PublishedWheel {
  /** Backend the wheel belongs to: `mori`, `mooncake`. */
  readonly name: string
  /** Variant of the library, where a vendor publishes several: `cuda13`, `rocm`. */
  readonly flavour?: string | undefined
  readonly pipArguments: readonly string[]
  /** SHA-256 (lower-case hex) by wheel file name. A file with another digest is refused. */
  readonly sha256: Readonly<Record<string, string>>
  /** What is unpacked: paths inside the wheel; one that ends with `/` is a folder. All must be there. */
  readonly files: readonly string[]
}

/** The manifest beside an unpacked wheel, and where that is. */
export interface InstalledWheel {
  /** Folder with the unpacked files, at the same paths as in the wheel. */
  readonly folder: string
  readonly name: string
  readonly version: string
  readonly flavour?: string | undefined
  /** Digest of the wheel file. */
  readonly sha256: string
  /** Where the wheel came from: `pip` or the path of a file. */
  readonly from: string
}
