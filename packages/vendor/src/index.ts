/** How a vendor's library gets to this machine and is tried before a process relies on it. */
export { cacheFolder, homeFolder } from './cache.ts'
export { invalidOption } from './errors.ts'
export {
  devices,
  list,
  type OptionSource,
  optionTable,
  ownAddress,
  text,
  whole,
  wholeThat,
} from './options.ts'
export { inWorkFolder } from './work.ts'
export {
  type DownloadOptions,
  downloadWheel,
  findInstalled,
  installWheel,
  listInstalled,
  type InstallOptions,
  type InstallProgress,
  type InstalledWheel,
  openMember,
  type PublishedWheel,
  type WheelSpec,
  wheelLibrary,
} from './wheels/index.ts'
