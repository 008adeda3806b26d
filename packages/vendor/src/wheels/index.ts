/** Vendors' libraries come in Python wheels: fetched, checked and unpacked under the cache folder. */
export { installWheel, type InstallOptions, type InstallProgress } from './install.ts'
export { findInstalled, listInstalled } from './installed.ts'
export { wheelLibrary } from './library.ts'
export type { InstalledWheel, WheelSpec } from './spec.ts'
export { downloadWheel, type DownloadOptions, type PublishedWheel } from './pip.ts'
export { openMember } from './zip.ts'
