export {
  type HealthReport,
  type HealthServer,
  type HealthSource,
  parseListen,
  startHealthServer,
} from './health-server.ts'
export { createLogger, describeError, type Logger, type LoggerOptions, type LogLevel } from './logger.ts'
export { createMetrics, type GaugeSample, type Metrics } from './metrics.ts'
