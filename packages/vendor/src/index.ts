/** How a vendor's library gets to this machine and is tried before a process relies on it. */
export { cacheFolder, homeFolder } from './cache.ts'
export {
  findInstalled,
  installWheel,
  listInstalled,
  type InstallOptions,
  type InstallProgress,
  type InstalledWheel,
  type WheelSpec,
  wheelLibrary,
} from './wheels/index.ts'
