import type { Readable } from 'node:stream'
import { open, type Entry, type ZipFile } from 'yauzl'

/**
 * One member of a zip file as a stream of its uncompressed bytes.
 *
 * @throws Error when the file is no zip file or has no such member
 */
export function openEntry(file: string, member: string): Promise<Readable> {
  return new Promise((resolve, reject) => {
    open(file, { lazyEntries: true }, (failure, zip: ZipFile) => {
      if (failure) {
        reject(failure)
        return
      }
      zip.once('error', reject)
      zip.once('end', () => {
        reject(new Error(`${file} has no member ${member}`))
      })
      zip.on('entry', (entry: Entry) => {
        if (entry.fileName !== member) {
          zip.readEntry()
          return
        }
        zip.openReadStream(entry, (error, stream) => {
          if (error) reject(error)
          else resolve(stream)
          // The file is closed once the stream has ended.
          zip.close()
        })
      })
      zip.readEntry()
    })
  })
}
