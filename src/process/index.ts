export { endGroup, ownMembers, signalGroup } from './group.ts'
export {
  bootId,
  identify,
  isAlive,
  isLocal,
  type ProcessIdentity,
  type ProcessStat,
  pidNamespace,
  processStat,
} from './identity.ts'
export { type RunOptions, type RunResult, runGroup, SpawnError } from './run.ts'
