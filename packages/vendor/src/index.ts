/** How a vendor's library gets to this machine and is tried before a process relies on it. */
export { cacheFolder, homeFolder } from './cache.ts'
export { invalidOption, unavailable } from './errors.ts'
export { type HelperEnd, type HelperOptions, keepGood, onTask, runHelper, tell } from './helper.ts'
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
export { type Attempt, pythonPackage, reasons } from './places.ts'
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
