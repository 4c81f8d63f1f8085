"""The AWS services that botocore 1.44.8 knows, by their names in `create_client`.

A service id that differs from the name follows it: `autoscaling=auto-scaling`. botocore's events
use the id. A test compares the list with the installed botocore, and shows what to add.
"""

__all__ = ["BOTOCORE", "SERVICES"]

BOTOCORE = "1.44.8"
SERVICES = """
abuse-signal accessanalyzer account account-access account-access-runtime acm acm-pca
agent-discovery agent-registry agent-registry-control aiops amp amplify amplifybackend
amplifyuibuilder apigateway=api-gateway apigatewaymanagementapi apigatewayv2 apiportal appconfig
appconfigdata appfabric appflow appintegrations application-autoscaling=application-auto-scaling
application-insights application-signals applicationcostprofiler appmesh=app-mesh apprunner
appstream appsync arc-region-switch arc-zonal-shift artifact athena auditmanager
autoscaling=auto-scaling autoscaling-plans=auto-scaling-plans b2bi backup backup-gateway
backupsearch batch bcm-dashboards bcm-data-exports bcm-pricing-calculator bcm-recommended-actions
bedrock bedrock-agent bedrock-agent-runtime bedrock-agentcore bedrock-agentcore-control
bedrock-data-automation bedrock-data-automation-runtime bedrock-runtime billing billingconductor
braket budgets ce=cost-explorer chatbot chime chime-sdk-identity chime-sdk-media-pipelines
chime-sdk-meetings chime-sdk-messaging chime-sdk-voice cleanrooms cleanroomsml cloud9 cloudcontrol
clouddirectory cloudformation cloudfront cloudfront-keyvaluestore cloudhsm cloudhsmv2=cloudhsm-v2
cloudsearch cloudsearchdomain=cloudsearch-domain cloudtrail cloudtrail-data cloudwatch
cloudwatchomni codeartifact codebuild codecatalyst codecommit codeconnections codedeploy
codeguru-reviewer codeguru-security codeguruprofiler codepipeline codestar-connections
codestar-notifications cognito-identity cognito-idp=cognito-identity-provider cognito-sync
comprehend comprehendmedical compute-optimizer compute-optimizer-automation config=config-service
connect connect-contact-lens connectcampaigns connectcampaignsv2 connectcases connecthealth
connectparticipant connectscheduling continuum controlcatalog controltower cost-optimization-hub
cur=cost-and-usage-report-service customer-profiles databrew dataexchange
datapipeline=data-pipeline datasync datazone dax deadline detective devicefarm=device-farm
devops-agent devops-guru directconnect=direct-connect discovery=application-discovery-service dlm
dms=database-migration-service docdb docdb-elastic drs ds=directory-service
ds-data=directory-service-data dsql dynamodb dynamodbstreams=dynamodb-streams ebs ec2
ec2-instance-connect ecr ecr-public ecs efs eks eks-auth elasticache
elasticbeanstalk=elastic-beanstalk elb=elastic-load-balancing elbv2=elastic-load-balancing-v2
elementalinference emr emr-containers emr-serverless endusermessaging entityresolution
es=elasticsearch-service eventbridgev2 events=eventbridge evs firehose fis fms forecast
forecastquery frauddetector freetier fsx gamelift gameliftstreams geo-maps geo-places geo-routes
glacier globalaccelerator=global-accelerator glue grafana greengrass greengrassv2 groundstation
guardduty health healthlake iam iam-toolbox identitystore imagebuilder importexport inspector
inspector-scan inspector2 interconnect internetmonitor invoicing iot iot-data=iot-data-plane
iot-jobs-data=iot-jobs-data-plane iot-managed-integrations iotdeviceadvisor iotfleetwise
iotsecuretunneling iotsitewise iotthingsgraph iottwinmaker iotwireless=iot-wireless ivs
ivs-realtime ivschat kafka kafkaconnect kendra kendra-ranking keyspaces keyspacesstreams kinesis
kinesis-video-archived-media kinesis-video-media kinesis-video-signaling
kinesis-video-webrtc-storage kinesisanalytics=kinesis-analytics
kinesisanalyticsv2=kinesis-analytics-v2 kinesisvideo=kinesis-video kms lakeformation lambda
lambda-core lambda-microvms lambda-web launch-wizard lex-models=lex-model-building-service
lex-runtime=lex-runtime-service lexv2-models=lex-models-v2 lexv2-runtime=lex-runtime-v2
license-manager license-manager-linux-subscriptions license-manager-user-subscriptions lightsail
location logs=cloudwatch-logs lookoutequipment m2 machinelearning=machine-learning macie2
mailmanager managedblockchain managedblockchain-query marketplace-agreement marketplace-catalog
marketplace-deployment marketplace-discovery
marketplace-entitlement=marketplace-entitlement-service marketplace-reporting
marketplacecommerceanalytics=marketplace-commerce-analytics mediaconnect mediaconvert medialive
mediapackage mediapackage-vod mediapackagev2 mediastore mediastore-data mediatailor
medical-imaging memorydb meteringmarketplace=marketplace-metering mgh=migration-hub mgn
migration-hub-refactor-spaces migrationhub-config migrationhuborchestrator migrationhubstrategy
mpa mq mturk mwaa mwaa-serverless neptune neptune-graph neptunedata network-firewall
network-security-manager networkflowmonitor networkmanager networkmonitor notifications
notificationscontacts nova-act oam observabilityadmin odb omics opensearch opensearchmemory
opensearchserverless organizations osis outposts partnercentral-account partnercentral-benefits
partnercentral-channel partnercentral-marketing partnercentral-revenue-measurement
partnercentral-selling payment-cryptography payment-cryptography-data payments pca-connector-ad
pca-connector-scep pcs personalize personalize-events personalize-runtime pi pinpoint
pinpoint-email pinpoint-sms-voice pinpoint-sms-voice-v2 pipes polly pricing pricing-plan-manager
proton qapps qbusiness qconnect quicksight ram rbin rds rds-data redshift redshift-data
redshift-serverless rekognition repostspace resiliencehub resiliencehubv2 resource-explorer-2
resource-groups resourcegroupstaggingapi=resource-groups-tagging-api rolesanywhere
route53=route-53 route53-recovery-cluster route53-recovery-control-config
route53-recovery-readiness route53domains=route-53-domains route53globalresolver route53profiles
route53resolver rtbfabric rum s3 s3control=s3-control s3files s3outposts s3tables s3vectors
sagemaker sagemaker-a2i-runtime sagemaker-edge sagemaker-featurestore-runtime
sagemaker-gateway-runtime sagemaker-geospatial sagemaker-inference-router-runtime
sagemaker-metrics sagemaker-runtime sagemakerjobruntime sagemakertrainingsessionruntime
savingsplans scheduler schemas sdb=simpledb secretsmanager=secrets-manager security-ir
securityagent securityhub securitylake serverlessrepo=serverlessapplicationrepository
service-quotas servicecatalog=service-catalog
servicecatalog-appregistry=service-catalog-appregistry servicediscovery ses sesv2 shield signer
signer-data signin simpledbv2 sms-voice=pinpoint-sms-voice snow-device-management snowball sns
socialmessaging sqs ssm ssm-contacts ssm-guiconnect ssm-incidents ssm-quicksetup ssm-sap sso
sso-admin sso-oidc stepfunctions=sfn storagegateway=storage-gateway sts supplychain support
support-app supportauthz sustainability swf synthetics taxsettings textract timestream-influxdb
timestream-query timestream-write transcribe transfer translate trustedadvisor uxc
verifiedpermissions voice-id vpc-lattice waf waf-regional wafv2 wellarchitected wickr wisdom
workdocs workmail workmailmessageflow workspaces workspaces-instances workspaces-thin-client
workspaces-web xray
"""
