export { endGroup, ownMembers } from './group.ts'
export {
  bootId,
  identify,
  isAlive,
  isLocal,
  type ProcessIdentity,
  pidNamespace,
  processStat,
} from './identity.ts'
export { runGroup, SpawnError } from './run.ts'
